// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

var seed = flag.Uint64("seed", 1, "of random packets")

// TestRandomPackets runs a million packets through each program (see bpftest.Packets). Each has
// to come out as the model says: same reason, same action, and bytes that fit them.
func TestRandomPackets(t *testing.T) {
	count := bpftest.Packets(t)
	for _, program := range []struct{ name, object string }{
		{"from_workload", "workload"}, {"to_workload", "workload"}, {"from_underlay", "tunnel"}, {"from_tunnel", "tunnel"}, {"from_node", "node"},
	} {
		t.Run(program.name, func(t *testing.T) {
			t.Parallel()
			g := newGenerator()
			for _, flags := range []uint32{0, row.WorkloadDirected} {
				b := newBench(t, program.object, change{tables: func(t *bpftest.Tables) {
					if program.object == "node" {
						asNode(t)
					}
					for link, w := range t.Workloads {
						w.Flags = flags
						t.Workloads[link] = w
					}
				}})
				b.runRandom(t, g, program.name, count/2)
			}
		})
	}
}

func (b *bench) runRandom(t *testing.T, g *generator, program string, count int) {
	t.Helper()
	filled := time.Now()
	for i := range count {
		switch {
		case i%100 == 0:
			b.turn(t, g, i)
			filled = time.Now()
		case time.Since(filled) > time.Second: // the machine is busy, and bars would end that the model knows of
			if err := b.FillFeedbacks(b.Set); err != nil {
				t.Fatal(err)
			}
			filled = time.Now()
		}
		frame, meta := g.frame(program)
		var model bpftest.Outcome
		got, err := b.RunAsked(program, frame, meta, func() row.Reason {
			model = b.model(program, frame, meta)
			return model.Reason
		})
		if errors.Is(err, bpftest.ErrRefused) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got.Reason != model.Reason || got.Action != model.Action() {
			again, _ := b.Run(program, frame, meta)
			t.Fatalf("packet %d of seed %d: got %s (now %s), want %s (%s)\n% x\n%+v",
				i, *seed, got.Action, again.Reason, model.Reason, model.Action(), frame, meta)
		}
		if err := b.checkOut(program, frame, meta, got, model); err != nil {
			t.Fatalf("packet %d of seed %d, %s: %v\n% x\n% x", i, *seed, model.Reason, err, frame, got.Out)
		}
	}
	b.sameFlows(t)
}

// turn looks whether model and programs remember the same, and changes what packets find.
func (b *bench) turn(t *testing.T, g *generator, i int) {
	t.Helper()
	fill, share := b.FillBehind, 20
	if i%500 == 0 {
		b.sameFlows(t)
		b.forget(t)
		g.answers(b.Tables)
		fill, share = b.VIPs.Fill, 100
	} else {
		b.evict(t, g)
	}
	g.vips(b.Tables, share)
	if err := fill(b.Set); err != nil {
		t.Fatal(err)
	}
	g.learn(b.Tables)
}

// forget empties what the programs remember, before it is so much that the kernel forgets some by
// itself, and fills up what they may add.
func (b *bench) forget(t *testing.T) {
	t.Helper()
	for name, model := range b.remembered() {
		for key := range model {
			if err := b.Maps[name].Delete(key); err != nil {
				t.Fatal(err)
			}
		}
		clear(model)
	}
	clear(b.Translations) // their maps are filled anew
	clear(b.Affinities)
	for i := range uint32(20) { // two of each link
		if err := b.Maps["openers"].Put(i, row.Opener{}); err != nil {
			t.Fatal(err)
		}
	}
}

// checkOut compares the bytes that left a program with those that went in, or that they became by a VIP.
func (b *bench) checkOut(program string, frame []byte, meta bpftest.Meta, got bpftest.Result, model bpftest.Outcome) error {
	mark := false
	if program == "from_underlay" && got.Action == bpftest.Redirect {
		mark = frame[15]&3 == 3
		frame = frame[50:]
	}
	if model.Frame != nil {
		frame = model.Frame
	}
	switch {
	case model.Enters:
		return checkDelivered(frame, got.Out, model.To, mark)
	case got.Action == bpftest.Next:
		if program == "from_workload" && isTunnelFrame(got.Out) {
			return errors.New("a tunnel frame of a task was left to the node's stack")
		}
		if !bytes.Equal(got.Out, frame) {
			return errors.New("what was left to the stack was changed")
		}
	case model.Block.Flags&row.BlockPlain != 0:
		return b.checkEncapsulated(frame, got.Out, model.Block)
	case model.Reason == row.ReasonDelivered || model.Reason == row.ReasonAudited:
		return checkDelivered(frame, got.Out, model.To, mark)
	case model.Reason == row.ReasonEncapsulated && meta.GSOSize == 0:
		return b.checkEncapsulated(frame, got.Out, model.Block)
	}
	return nil
}

// isTunnelFrame tells by the plainest means: UDP to the tunnel's port, first fragment or whole.
func isTunnelFrame(frame []byte) bool {
	at := 14 + 40
	if frame[14]>>4 == 4 {
		at = 14 + int(frame[14]&15)*4
		if frame[23] != bpftest.UDP || binary.BigEndian.Uint16(frame[20:])&0x1fff != 0 {
			return false
		}
	} else if frame[12] != 0x86 || frame[20] != bpftest.UDP {
		return false
	}
	return binary.BigEndian.Uint16(frame[12:]) != bpftest.TypeARP && binary.BigEndian.Uint16(frame[at+2:]) == 4789
}

// checkDelivered compares what a task gets with what was sent to it; mark: the way may have marked congestion.
func checkDelivered(inner, out []byte, to row.Endpoint, mark bool) error {
	switch {
	case bpftest.MAC(out[:6]) != to.MAC:
		return errors.New("delivered to another task")
	case bpftest.MAC(out[6:12]) != bpftest.Gateway:
		return errors.New("delivered from another MAC than the gateway's")
	case !mark && !bytes.Equal(out[12:], inner[12:]):
		return errors.New("delivered with changes")
	case mark && (len(out) != len(inner) || !bytes.Equal(out[12:14], inner[12:14]) || !bytes.Equal(out[26:], inner[26:])):
		return errors.New("delivered with more changes than a mark")
	}
	return nil
}

func (b *bench) checkEncapsulated(frame, out []byte, to row.Block) error {
	if to.Flags&row.BlockPlain != 0 && (bpftest.MAC(out[:6]) != plainMAC || bpftest.MAC(out[6:12]) != ownMAC || len(out) != len(frame)) {
		return errors.New("sent to a plain node by another MAC or way")
	}
	if len(out) == len(frame) { // by the device, for it may be fragmented
		return nil
	}
	own, src := b.Workloads[webLink].Addr4.Netip(), frame[26:30]
	if frame[12] == 0x86 {
		own, src = b.Workloads[webLink].Addr6.Netip(), frame[22:38]
	}
	vtep := to.VTEP.Netip().As4()
	switch {
	case !bytes.Equal(src, own.AsSlice()):
		return errors.New("a spoofed source was sent")
	case !bytes.Equal(out[64:], frame[14:]):
		return errors.New("sent with changes")
	case !bytes.Equal(out[30:34], vtep[:]) || !bytes.Equal(out[26:30], node.AsSlice()):
		return errors.New("sent to or from another node")
	case binary.BigEndian.Uint32(out[46:])>>8 != netA || binary.BigEndian.Uint16(out[44:]) != b.Workloads[webLink].Identity:
		return errors.New("sent as of another network or identity")
	}
	return bpftest.Check(out)
}

// generator makes packets that are mostly sensible and often not quite.
type generator struct {
	*rand.Rand
	known [2][]flow // of IPv4 and of IPv6, that have to do with VIPs
}

func newGenerator() *generator { return &generator{Rand: rand.New(rand.NewPCG(*seed, 0))} }

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// chance is true in n of 100 cases.
func (g *generator) chance(n int) bool { return g.IntN(100) < n }

// frame returns a packet for a program.
func (g *generator) frame(program string) ([]byte, bpftest.Meta) {
	var meta bpftest.Meta
	a := pick(g, v4, v6)
	p := g.packet(a, program == "from_workload")
	if program == "from_node" && g.chance(85) {
		p.Src = a.own
	}
	frame := p.Bytes()
	if g.chance(4) {
		frame = g.arp()
	}
	frame = g.spoil(frame)
	switch program {
	case "from_workload", "from_node":
		if g.chance(5) {
			meta.GSOSize = pick(g, uint32(500), 1300, 1402, 1410, 1430)
		}
	case "to_workload":
		meta.Ingress = pick(g, uint32(0), 2, 2, 2)
	case "from_underlay":
		frame = g.wrap(frame)
	case "from_tunnel":
		meta.Tunnel = &bpftest.TunnelMeta{VTEP: otherNode, VNI: netA, Identity: g.identity()}
		if g.chance(5) {
			meta.Tunnel.VTEP = pick(g, noNode, node, world6)
		}
		if g.chance(30) {
			meta.Tunnel.VTEP = plainNode
		}
		if g.chance(5) {
			meta.Tunnel.VNI = pick(g, uint32(netB), 0, 0xffffff)
		}
	}
	return frame, meta
}

func (g *generator) identity() uint16 {
	return pick[uint16](g, web, web, web, db, public, stranger, row.IdentityNone, row.IdentityWorld, row.IdentityNode, row.IdentityOtherNode)
}

// address returns any address that the tables or the programs know.
func (g *generator) address(a addrs) netip.Addr {
	if a.web.Is4() && g.chance(4) {
		return pick(g, addr("0.0.0.0"), addr("127.0.0.1"), addr("255.255.255.255"), node, otherNode, addr("169.254.1.1"))
	}
	if !a.web.Is4() && g.chance(6) {
		return pick(g, addr("::"), addr("::1"), addr("fe80::1"), addr("fe80::5"), addr("::ffff:10.1.1.30"), addr("::2"))
	}
	return pick(g, a.web, a.db, a.db, a.peer, a.peer, a.open, a.none, a.remote, a.remote, a.plain, a.plain, a.unheld, a.foreign,
		a.world, a.world, a.multicast, a.dns, a.own, a.other, a.other, a.lost, a.vip, a.vip, a.vip2)
}

func (g *generator) packet(a addrs, own bool) bpftest.Packet {
	p := bpftest.Packet{
		SrcMAC: mac(webLink), Src: g.address(a), Dst: g.address(a), TTL: pick[uint8](g, 64, 64, 1, 255, 255),
		Proto: pick[uint8](g, bpftest.TCP, bpftest.TCP, bpftest.UDP, bpftest.UDP, a.icmp(), a.icmp(), bpftest.IGMP, bpftest.GRE, bpftest.NoNext),
		SPort: g.port(), DPort: g.port(), TOS: uint8(g.IntN(4)), NoSum: g.chance(50),
		Flags:    pick[uint8](g, bpftest.SYN, bpftest.SYN|bpftest.ACK, bpftest.ACK, bpftest.FIN|bpftest.ACK, bpftest.RST, bpftest.RST|bpftest.ACK),
		ICMPType: pick[uint8](g, 0, 8, 128, 129, 3, 11, 12, 1, 2, 4, 133, 134, 135, 136, 137, 143, 130),
		ICMPCode: pick[uint8](g, 0, 3, 4),
		ICMPRest: [4]byte{0, byte(g.IntN(3)), 0, 1}, Frag: pick[uint16](g, 0, bpftest.DontFragment, bpftest.DontFragment),
		Payload: make([]byte, pick(g, 0, 1, 8, 16, 24, 60, g.IntN(200), 1380+g.IntN(100))),
	}
	if own && g.chance(85) {
		p.Src = a.web
	}
	if own && g.chance(12) {
		p.Dst, p.DPort, p.Proto = pick(g, a.vip, a.vip2), pick(g, vipPorts...), pick[uint8](g, bpftest.TCP, bpftest.UDP)
	}
	if own && g.chance(5) {
		p.Dst, p.DPort, p.Proto, p.Payload = a.dns, 53, bpftest.UDP, g.question()
	}
	if g.chance(20) {
		g.again(&p, a)
	}
	if g.chance(5) {
		g.complaint(&p, a)
	}
	if g.chance(3) {
		p.SrcMAC = pick(g, mac(dbLink), bpftest.Gateway, bpftest.MAC{})
	}
	if g.chance(12) {
		p.Frag = pick[uint16](g, bpftest.MoreFragments, 1, 185, bpftest.MoreFragments|185, bpftest.DontFragment|7)
	}
	for !a.web.Is4() && len(p.Extensions) < 9 && g.chance(15) {
		p.Extensions = append(p.Extensions, bpftest.PadExtension(pick[uint8](g, bpftest.HopOpts, bpftest.DstOpts, bpftest.Routing), pick(g, 8, 16, 40)))
	}
	if a.web.Is4() && g.chance(6) {
		p.Options = make([]byte, 4*g.IntN(11))
	}
	if p.Proto == a.icmp() && g.chance(30) {
		p.Payload = g.quote(a)
	}
	return p
}

// question is a plain one about a name, with an OPT record or not, of which a bit may be another, or the end be gone.
func (g *generator) question() []byte {
	m := question().Payload
	if g.chance(50) {
		m[11] = 1
		m = append(m, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4, 0, 10, 0, 0)
	}
	if g.chance(60) {
		m[g.IntN(len(m))] ^= 1 << g.IntN(8)
	}
	return m[:len(m)-pick(g, 0, 0, 0, g.IntN(len(m)))]
}

func (g *generator) port() uint16 { return pick[uint16](g, 22, 53, 80, 80, 5432, 4789, 40000, 40000) }

// quote is what an ICMP error or a neighbour message carries.
func (g *generator) quote(a addrs) []byte {
	if g.chance(30) {
		target := g.address(a).As16()
		return append(target[:], 1, 1, 0, 0, 0, 0, 0, 0)
	}
	p := bpftest.Packet{
		Src: g.address(a), Dst: g.address(a), SPort: g.port(), DPort: g.port(), ICMPRest: [4]byte{0, byte(g.IntN(3))},
		ICMPType: a.echo(true), Proto: pick(g, bpftest.TCP, bpftest.UDP, a.icmp()),
	}
	if a.web.Is4() && g.chance(10) {
		p.Options = make([]byte, 4*g.IntN(11))
	}
	return p.Bytes()[14:]
}

// complaint makes a packet an ICMP error about a packet that was sent to a VIP's backend, by that or another.
func (g *generator) complaint(p *bpftest.Packet, a addrs) {
	about := bpftest.Packet{Payload: p.Payload[:min(len(p.Payload), 100)]}
	g.again(&about, a)
	if !about.Src.IsValid() || about.Src.Is4() != a.web.Is4() {
		return
	}
	about.Src, about.Dst, about.SPort, about.DPort = about.Dst, about.Src, about.DPort, about.SPort
	p.Proto, p.ICMPType, p.Payload = a.icmp(), pick[uint8](g, 3, 3, 11), about.Bytes()[14:]
	if !a.web.Is4() {
		p.ICMPType = pick[uint8](g, 1, 1, 2)
	}
	p.Dst = about.Src
	if g.chance(70) {
		p.Src = about.Dst
	}
}

func (g *generator) arp() []byte {
	return bpftest.ARPPacket{
		SrcMAC: mac(webLink), Operation: uint16(g.IntN(4)), SenderMAC: pick(g, mac(webLink), mac(webLink), mac(webLink), mac(dbLink)),
		SenderAddr: pick(g, v4.web, v4.web, v4.plain, g.address(v4)), TargetAddr: g.address(v4),
	}.Bytes()
}

// spoil changes bytes and length of some frames.
func (g *generator) spoil(frame []byte) []byte {
	if g.chance(20) {
		for range 1 + g.IntN(4) {
			frame[g.IntN(min(len(frame), 100))] = pick(g, byte(g.IntN(256)), 0, 0xff)
		}
	}
	if g.chance(8) {
		frame = frame[:g.IntN(len(frame))+1]
	}
	if g.chance(3) {
		frame = append(frame, make([]byte, g.IntN(20))...)
	}
	return frame
}

func (g *generator) wrap(frame []byte) []byte {
	u := outer(g.identity())
	u.Outer.TOS = uint8(g.IntN(4))
	if g.chance(10) {
		u.Outer.Src = pick(g, noNode, node, plainNode)
	}
	if g.chance(5) {
		u.VNI = pick(g, uint32(netB), 0, 0xffffff)
	}
	if g.chance(5) {
		u.Flags = uint8(g.IntN(256))
	}
	frame = u.Wrap(frame)
	if g.chance(10) {
		for range 1 + g.IntN(3) {
			frame[g.IntN(50)] = byte(g.IntN(256))
		}
	}
	if g.chance(3) {
		frame = frame[:g.IntN(len(frame))+1]
	}
	return frame
}

// TestRoundTrip wants the frame that a node sends to come out at another as it went in.
func TestRoundTrip(t *testing.T) {
	sender := newBench(t, "workload", change{})
	receiver := newBench(t, "tunnel", change{tables: func(t *bpftest.Tables) {
		t.VTEPs[row.AddrOf(node)] = row.VTEP{}
		for _, a := range families {
			t.Endpoints[row.EndpointKey{VNI: netA, Addr: row.AddrOf(a.remote)}] = row.Endpoint{Ifindex: webLink, Identity: web, MAC: mac(webLink)}
		}
	}})
	g := newGenerator()
	trips, wanted := 0, min(2000, bpftest.Packets(t)/10)
	for trips < wanted {
		a := pick(g, v4, v6)
		p := g.packet(a, true)
		p.Src, p.Dst, p.SrcMAC = a.web, a.remote, mac(webLink)
		frame := p.Bytes()
		model := sender.FromWorkload(frame, bpftest.Meta{})
		if model.Reason != row.ReasonEncapsulated || receiver.OldDecap && a.web.Is6() {
			continue
		}
		sent, err := sender.Run("from_workload", frame, bpftest.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		if len(sent.Out) == len(frame) {
			continue // left to the device
		}
		trips++
		// The bench is one node: what was sent from it to the other comes as from the other.
		copy(sent.Out[26:], otherNode.AsSlice())
		copy(sent.Out[30:], node.AsSlice())
		got, err := receiver.Run("from_underlay", sent.Out, bpftest.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Reason != row.ReasonDelivered || !bytes.Equal(got.Out[12:], frame[12:]) {
			t.Fatalf("%s:\n% x\n% x", got.Reason, frame, got.Out)
		}
	}
}

// TestTruncatedPackets cuts valid packets at every length: none goes anywhere.
func TestTruncatedPackets(t *testing.T) {
	for name, a := range families {
		valid := map[string][]byte{
			"tcp here":   tcp(a.web, a.peer).Bytes(),
			"tcp remote": tcp(a.web, a.remote).Bytes(),
			"udp here":   udp(a.web, a.peer).Bytes(),
			"ping here":  a.ping(a.web, a.peer, true).Bytes(),
			"world":      udp(a.web, a.world).Bytes(),
			"name":       with(udp(a.web, a.dns), func(p *bpftest.Packet) { p.DPort, p.Payload = 53, question().Payload }).Bytes(),
			"fragment":   with(udp(a.web, a.peer), func(p *bpftest.Packet) { p.Frag = bpftest.MoreFragments }).Bytes(),
		}
		if a.web.Is4() {
			valid["options"] = with(tcp(a.web, a.peer), func(p *bpftest.Packet) { p.Options = make([]byte, 40) }).Bytes()
			valid["arp"] = bpftest.ARPPacket{SrcMAC: mac(webLink), Operation: 1, SenderMAC: mac(webLink), SenderAddr: a.web, TargetAddr: a.peer}.Bytes()
		} else {
			valid["extensions"] = with(tcp(a.web, a.peer), func(p *bpftest.Packet) {
				p.Extensions = []bpftest.Extension{bpftest.PadExtension(bpftest.HopOpts, 16), bpftest.PadExtension(bpftest.DstOpts, 24)}
			}).Bytes()
			solicit := bpftest.Neighbour(135, a.web, addr("ff02::1:ff00:1"), addr("fe80::1"), mac(webLink))
			valid["solicitation"] = with(solicit, func(p *bpftest.Packet) { p.SrcMAC = mac(webLink) }).Bytes()
		}
		b := newBench(t, "workload", change{})
		for what, frame := range valid {
			t.Run(name+" "+what, func(t *testing.T) {
				b.truncate(t, "from_workload", frame, bpftest.Meta{})
				b.truncate(t, "to_workload", frame, forwarded)
			})
		}
		under := newBench(t, "tunnel", change{})
		tunnel := bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: otherNode, VNI: netA, Identity: web}}
		for what, frame := range map[string][]byte{
			"tcp": tcp(a.remote, a.web).Bytes(), "udp": udp(a.remote, a.web).Bytes(), "ping": a.ping(a.remote, a.web, true).Bytes(),
		} {
			t.Run(name+" inner "+what, func(t *testing.T) {
				under.truncate(t, "from_underlay", wrapped(web, frame), bpftest.Meta{})
				under.truncate(t, "from_tunnel", frame, tunnel)
			})
		}
	}
}

func (b *bench) truncate(t *testing.T, program string, frame []byte, meta bpftest.Meta) {
	t.Helper()
	ran := 0
	for size := 1; size < len(frame); size++ {
		model := b.model(program, frame[:size], meta)
		got, err := b.Run(program, frame[:size], meta)
		if errors.Is(err, bpftest.ErrRefused) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		ran++
		if got.Reason != model.Reason || got.Action == bpftest.Redirect {
			t.Errorf("%s of %d bytes of %d: got %s (%s), want %s", program, size, len(frame), got.Reason, got.Action, model.Reason)
		}
		if got.Action == bpftest.Next && got.Reason != row.ReasonNotOurs {
			t.Errorf("%s of %d bytes of %d was let go on: %s", program, size, len(frame), got.Reason)
		}
	}
	if ran < 8 {
		t.Errorf("%s ran on %d lengths only", program, ran)
	}
}
