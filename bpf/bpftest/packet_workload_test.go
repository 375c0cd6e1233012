// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// packetRow is one row of a packet table: a valid packet with one thing changed.
type packetRow struct {
	name   string
	packet bpftest.Packet
	change func(frame []byte) []byte // after building, for what no sender builds
	meta   bpftest.Meta
	want   row.Reason
}

func (r packetRow) frame() []byte {
	frame := r.packet.Bytes()
	if r.change != nil {
		frame = r.change(frame)
	}
	return frame
}

// with returns the packet after f changed it.
func with(p bpftest.Packet, f func(*bpftest.Packet)) bpftest.Packet {
	f(&p)
	return p
}

// set writes bytes into the frame at an offset.
func set(at int, b ...byte) func([]byte) []byte {
	return func(frame []byte) []byte {
		copy(frame[at:], b)
		return frame
	}
}

// cut shortens the frame by n bytes.
func cut(n int) func([]byte) []byte {
	return func(frame []byte) []byte { return frame[:len(frame)-n] }
}

func (b *bench) table(t *testing.T, program string, rows []packetRow) {
	t.Helper()
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) { b.expect(t, program, r.frame(), r.meta, r.want) })
	}
}

func TestFromWorkload(t *testing.T) {
	b := newBench(t, "workload", change{})
	t.Run("parse", func(t *testing.T) { b.table(t, "from_workload", parseRows()) })
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			t.Run("source", func(t *testing.T) { b.table(t, "from_workload", sourceRows(a)) })
			t.Run("route", func(t *testing.T) { b.table(t, "from_workload", routeRows(a)) })
			t.Run("verdict", func(t *testing.T) { b.table(t, "from_workload", verdictRows(a)) })
			t.Run("deliver", func(t *testing.T) { testDeliver(t, b, a) })
			t.Run("encapsulate", func(t *testing.T) { testEncapsulate(t, b, a) })
			b.reset(t)
		})
	}
	t.Run("arp", func(t *testing.T) { testARP(t, b) })
	t.Run("neighbour", func(t *testing.T) { testNeighbour(t, b) })
	t.Run("too big", func(t *testing.T) { testTooBig(t, b) })
	t.Run("no device", func(t *testing.T) { testNoDevice(t, b) })
	t.Run("link of nobody", func(t *testing.T) { testNobody(t, b, "from_workload") })
	b.sawEvery(t, []row.Reason{
		row.ReasonEncapsulated, row.ReasonDelivered, row.ReasonToHost, row.ReasonAnsweredARP, row.ReasonAnsweredND,
		row.ReasonAnsweredTooBig, row.ReasonDNSMiss, row.ReasonDNSUnread, row.ReasonAudited, row.ReasonChatter, row.ReasonMalformed,
		row.ReasonUnknownLink, row.ReasonSpoofedMAC, row.ReasonSpoofedAddress, row.ReasonSpoofedTunnel,
		row.ReasonNotIP, row.ReasonNoEndpoint, row.ReasonNoBlock, row.ReasonOtherNetwork, row.ReasonNoCommonGroup,
		row.ReasonDenied, row.ReasonTooBig, row.ReasonFragment, row.ReasonEncapFailed, row.ReasonMulticast,
	})
}

// sawEvery wants exactly these reasons to have been seen.
func (b *bench) sawEvery(t *testing.T, want []row.Reason) {
	t.Helper()
	wanted := make(map[row.Reason]bool)
	for _, reason := range want {
		wanted[reason] = true
	}
	if diff := cmp.Diff(wanted, b.seen); diff != "" {
		t.Errorf("reasons seen (-want +got):\n%s", diff)
	}
}

// parseRows change what parse.h reads.
func parseRows() []packetRow {
	p4, p6 := tcp(v4.web, v4.peer), tcp(v6.web, v6.peer)
	vlan := func(frame []byte) []byte {
		tag := []byte{0x81, 0x00, 0x00, 0x05}
		return append(append(append([]byte(nil), frame[:12]...), tag...), frame[12:]...)
	}
	extension := func(headers ...bpftest.Extension) bpftest.Packet {
		return with(p6, func(p *bpftest.Packet) { p.Extensions = headers })
	}
	pad := func(n int) (headers []bpftest.Extension) {
		for range n {
			headers = append(headers, bpftest.PadExtension(bpftest.DstOpts, 8))
		}
		return headers
	}
	mapped := netip.AddrFrom16(v4.peer.As16())
	return []packetRow{
		{name: "valid ipv4", packet: p4, want: row.ReasonDelivered},
		{name: "valid ipv6", packet: p6, want: row.ReasonDelivered},
		{name: "another type", packet: with(p4, func(p *bpftest.Packet) { p.Type = 0x88cc }), want: row.ReasonNotIP},
		{name: "vlan", packet: p4, change: vlan, want: row.ReasonNotIP},
		{name: "ethernet alone", packet: p4, change: func([]byte) []byte {
			return append(bpftest.Packet{SrcMAC: mac(webLink), Type: 0x88cc}.Bytes()[:14:14], 0)
		}, want: row.ReasonNotIP},
		{name: "ipv4 version 5", packet: p4, change: set(14, 0x55), want: row.ReasonMalformed},
		{name: "ipv4 header of 16 bytes", packet: p4, change: set(14, 0x44), want: row.ReasonMalformed},
		{name: "ipv4 header beyond the packet", packet: p4, change: set(16, 0, 19), want: row.ReasonMalformed},
		{name: "ipv4 longer than the frame", packet: p4, change: cut(1), want: row.ReasonMalformed},
		{name: "ipv4 shorter than the frame", packet: p4, change: func(f []byte) []byte { return append(f, 0, 0) }, want: row.ReasonDelivered},
		{name: "ipv4 length 0", packet: p4, change: set(16, 0, 0), want: row.ReasonMalformed},
		{name: "ipv4 with options", packet: with(p4, func(p *bpftest.Packet) { p.Options = []byte{1, 1, 1, 0} }), want: row.ReasonDelivered},
		{name: "ipv6 version 4", packet: p6, change: set(14, 0x40), want: row.ReasonMalformed},
		{name: "ipv6 longer than the frame", packet: p6, change: cut(1), want: row.ReasonMalformed},
		{name: "ipv6 from a mapped address", packet: with(p6, func(p *bpftest.Packet) { p.Src = mapped }), want: row.ReasonMalformed},
		{name: "ipv6 to a mapped address", packet: with(p6, func(p *bpftest.Packet) { p.Dst = mapped }), want: row.ReasonMalformed},
		{name: "tcp header cut", packet: with(p4, func(p *bpftest.Packet) { p.L4 = make([]byte, 19) }), want: row.ReasonMalformed},
		{name: "tcp offset 4", packet: p4, change: set(14+20+12, 0x40), want: row.ReasonMalformed},
		{name: "udp header cut", packet: with(udp(v4.web, v4.peer), func(p *bpftest.Packet) { p.L4 = make([]byte, 7) }), want: row.ReasonMalformed},
		{name: "icmp header cut", packet: with(v4.ping(v4.web, v4.peer, true), func(p *bpftest.Packet) { p.L4 = make([]byte, 7) }), want: row.ReasonMalformed},
		{name: "another protocol", packet: with(p4, func(p *bpftest.Packet) { p.Proto = bpftest.GRE }), want: row.ReasonDelivered},
		{name: "extensions", packet: extension(bpftest.PadExtension(bpftest.HopOpts, 8), bpftest.PadExtension(bpftest.DstOpts, 24),
			bpftest.PadExtension(bpftest.Routing, 8)), want: row.ReasonDelivered},
		{name: "seven extensions", packet: extension(pad(7)...), want: row.ReasonDelivered},
		{name: "eight extensions", packet: extension(pad(8)...), want: row.ReasonMalformed},
		{
			name: "extension longer than the packet", packet: with(extension(pad(1)...), func(p *bpftest.Packet) { p.L4 = make([]byte, 20) }),
			change: set(14+40+1, 4), want: row.ReasonMalformed,
		},
		{name: "nothing behind the extension", packet: with(extension(pad(1)...), func(p *bpftest.Packet) {
			p.L4, p.Proto = []byte{}, bpftest.DstOpts
		}), want: row.ReasonMalformed},
		{name: "no next header", packet: with(p6, func(p *bpftest.Packet) { p.Proto, p.L4 = bpftest.NoNext, []byte{} }), want: row.ReasonDelivered},
	}
}

// sourceRows change who the packet says it is from.
func sourceRows(a addrs) []packetRow {
	p := tcp(a.web, a.peer)
	return []packetRow{
		{name: "another MAC", packet: with(p, func(p *bpftest.Packet) { p.SrcMAC[5]++ }), want: row.ReasonSpoofedMAC},
		{name: "another task's MAC", packet: with(p, func(p *bpftest.Packet) { p.SrcMAC = mac(peerLink) }), want: row.ReasonSpoofedMAC},
		{name: "the gateway's MAC", packet: with(p, func(p *bpftest.Packet) { p.SrcMAC = bpftest.Gateway }), want: row.ReasonSpoofedMAC},
		{name: "another task's address", packet: with(p, func(p *bpftest.Packet) { p.Src = a.db }), want: row.ReasonSpoofedAddress},
		{name: "another node's task", packet: with(p, func(p *bpftest.Packet) { p.Src = a.remote }), want: row.ReasonSpoofedAddress},
		{name: "the world's address", packet: with(p, func(p *bpftest.Packet) { p.Src = a.world }), want: row.ReasonSpoofedAddress},
		{name: "a multicast source", packet: with(p, func(p *bpftest.Packet) { p.Src = a.multicast }), want: row.ReasonSpoofedAddress},
		{name: "to another MAC", packet: with(p, func(p *bpftest.Packet) { p.DstMAC = mac(peerLink) }), want: row.ReasonDelivered},
	}
}

// routeRows change where the packet goes.
func routeRows(a addrs) []packetRow {
	to := func(dst netip.Addr) bpftest.Packet { return tcp(a.web, dst) }
	unspecified, loopback := netip.IPv6Unspecified(), netip.IPv6Loopback()
	if a.web.Is4() {
		unspecified, loopback = netip.IPv4Unspecified(), addr("127.0.0.1")
	}
	query := with(udp(a.web, a.dns), func(p *bpftest.Packet) { p.DPort, p.Payload = 53, question().Payload })
	tunnel := with(udp(a.web, a.world), func(p *bpftest.Packet) { p.DPort = 4789 })
	return []packetRow{
		{name: "a task of another node", packet: to(a.remote), want: row.ReasonEncapsulated},
		{name: "a task of this node", packet: to(a.peer), want: row.ReasonDelivered},
		{name: "no task of this node", packet: to(a.none), want: row.ReasonNoEndpoint},
		{name: "in no block", packet: to(a.unheld), want: row.ReasonNoBlock},
		{name: "of another network", packet: to(a.foreign), want: row.ReasonOtherNetwork},
		{name: "the world", packet: to(a.world), want: row.ReasonToHost},
		{name: "multicast", packet: to(a.multicast), want: row.ReasonMulticast},
		{name: "unspecified", packet: to(unspecified), want: row.ReasonMalformed},
		{name: "loopback", packet: to(loopback), want: row.ReasonMalformed},
		{name: "a name", packet: query, want: row.ReasonDNSMiss},
		{name: "no question", packet: with(query, func(p *bpftest.Packet) { p.Payload = p.Payload[1:] }), want: row.ReasonDNSUnread},
		{name: "a name by tcp", packet: with(query, func(p *bpftest.Packet) { p.Proto = bpftest.TCP }), want: row.ReasonToHost},
		{name: "another port of the name server", packet: with(query, func(p *bpftest.Packet) { p.DPort = 54 }), want: row.ReasonToHost},
		{name: "another node", packet: to(a.other), want: row.ReasonEncapsulated},
		{name: "its own node", packet: to(a.own), want: row.ReasonToHost},
		{name: "no node", packet: to(a.lost), want: row.ReasonNoBlock},
		{name: "tunnel frames to another node's processes", packet: with(tunnel, func(p *bpftest.Packet) { p.Dst = a.other }), want: row.ReasonSpoofedTunnel},
		{name: "tunnel frames to the world", packet: tunnel, want: row.ReasonSpoofedTunnel},
		{name: "tunnel frames to a node", packet: with(tunnel, func(p *bpftest.Packet) {
			if a.web.Is4() {
				p.Dst = node
			}
		}), want: row.ReasonSpoofedTunnel},
		{name: "the tunnel's port by tcp", packet: with(tunnel, func(p *bpftest.Packet) { p.Proto = bpftest.TCP }), want: row.ReasonToHost},
		{name: "the tunnel's port within the network", packet: with(udp(a.web, a.remote), func(p *bpftest.Packet) { p.DPort = 4789 }), want: row.ReasonEncapsulated},
	}
}

// verdictRows change who talks to whom, by what.
func verdictRows(a addrs) []packetRow {
	to := func(dst netip.Addr, proto uint8, port uint16) bpftest.Packet {
		return with(tcp(a.web, dst), func(p *bpftest.Packet) { p.Proto, p.DPort = proto, port })
	}
	first := func(p *bpftest.Packet) { p.Frag = bpftest.MoreFragments }
	later := func(p *bpftest.Packet) { p.Frag, p.L4 = 100, make([]byte, 64) }
	return []packetRow{
		{name: "common group", packet: to(a.peer, bpftest.TCP, 80), want: row.ReasonDelivered},
		{name: "common group, later fragment", packet: with(to(a.peer, bpftest.TCP, 80), later), want: row.ReasonDelivered},
		{name: "itself, by way of a VIP", packet: to(a.web, bpftest.TCP, 80), want: row.ReasonDelivered},
		{name: "port allowed", packet: to(a.db, bpftest.TCP, 5432), want: row.ReasonDelivered},
		{name: "port allowed, first fragment", packet: with(to(a.db, bpftest.TCP, 5432), first), want: row.ReasonDelivered},
		{name: "port allowed, later fragment", packet: with(to(a.db, bpftest.TCP, 5432), later), want: row.ReasonDelivered},
		{name: "port allowed, later fragment of another datagram", packet: with(with(to(a.db, bpftest.TCP, 5432), later), func(p *bpftest.Packet) { p.ID = 9 }), want: row.ReasonFragment},
		{name: "port denied", packet: to(a.db, bpftest.TCP, 22), want: row.ReasonDenied},
		{name: "port of no rule", packet: to(a.db, bpftest.TCP, 23), want: row.ReasonNoCommonGroup},
		{name: "protocol audited", packet: to(a.db, bpftest.UDP, 9), want: row.ReasonAudited},
		{name: "protocol audited, later fragment", packet: with(to(a.db, bpftest.UDP, 9), later), want: row.ReasonAudited},
		{name: "echo allowed", packet: a.ping(a.web, a.db, true), want: row.ReasonDelivered},
		{name: "protocol of no rule", packet: to(a.db, bpftest.GRE, 0), want: row.ReasonNoCommonGroup},
		{name: "group allows, rule denies", packet: to(a.open, bpftest.TCP, 22), want: row.ReasonDenied},
		{name: "group allows, no rule", packet: to(a.open, bpftest.TCP, 23), want: row.ReasonDelivered},
	}
}

// testDeliver wants the frame unchanged but for its MACs.
func testDeliver(t *testing.T, b *bench, a addrs) {
	t.Helper()
	frame := tcp(a.web, a.peer).Bytes()
	got := b.expect(t, "from_workload", frame, bpftest.Meta{}, row.ReasonDelivered)
	want := bytes.Clone(frame)
	to := mac(peerLink)
	copy(want, to[:])
	copy(want[6:], bpftest.Gateway[:])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("delivered (-want +got):\n%s", diff)
	}
}

// testEncapsulate wants the outer headers, byte for byte but for the source port, and within them
// the packet as it was.
func testEncapsulate(t *testing.T, b *bench, a addrs) {
	t.Helper()
	for _, tos := range []uint8{0, 1, 2, 3, 0xb8 | 2} {
		frame := with(tcp(a.web, a.remote), func(p *bpftest.Packet) { p.TOS = tos }).Bytes()
		got := b.expect(t, "from_workload", frame, bpftest.Meta{}, row.ReasonEncapsulated)
		if len(got) != len(frame)+50 {
			t.Fatalf("got %d bytes of %d, want 50 more", len(got), len(frame))
		}
		if err := bpftest.Check(got); err != nil {
			t.Error(err)
		}
		if port := binary.BigEndian.Uint16(got[34:]); port < 32768 {
			t.Errorf("source port is %d, want one from 32768 on", port)
		}
		inner := bytes.Clone(frame)
		last := a.remote.AsSlice()
		copy(inner, append([]byte{0x0a, 0x58}, last[len(last)-4:]...))
		copy(inner[6:], bpftest.Gateway[:])
		want := bpftest.Tunnel{VNI: netA, Policy: web, Outer: bpftest.Packet{
			DstMAC: bpftest.MAC(got[:6]), SrcMAC: bpftest.MAC(got[6:12]), Src: node, Dst: otherNode,
			SPort: binary.BigEndian.Uint16(got[34:]), Frag: bpftest.DontFragment, TOS: tos & 3, NoSum: true,
		}}.Wrap(inner)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("encapsulated (-want +got):\n%s", diff)
		}
	}
}

func testARP(t *testing.T, b *bench) {
	t.Helper()
	request := bpftest.ARPPacket{
		DstMAC: bpftest.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, SrcMAC: mac(webLink), Operation: 1,
		SenderMAC: mac(webLink), SenderAddr: v4.web, TargetAddr: addr("169.254.1.1"),
	}
	change := func(f func(*bpftest.ARPPacket)) []byte {
		a := request
		f(&a)
		return a.Bytes()
	}
	for _, r := range []struct {
		name  string
		frame []byte
		want  row.Reason
	}{
		{"another task's address asked", change(func(a *bpftest.ARPPacket) { a.TargetAddr = v4.peer }), row.ReasonAnsweredARP},
		{"answer to the node", change(func(a *bpftest.ARPPacket) { a.Operation = 2 }), row.ReasonToHost},
		{"operation 3", change(func(a *bpftest.ARPPacket) { a.Operation = 3 }), row.ReasonMalformed},
		{"own address asked", change(func(a *bpftest.ARPPacket) { a.TargetAddr = v4.web }), row.ReasonChatter},
		{"probe", change(func(a *bpftest.ARPPacket) { a.SenderAddr, a.TargetAddr = netip.IPv4Unspecified(), v4.web }), row.ReasonChatter},
		{"from another address", change(func(a *bpftest.ARPPacket) { a.SenderAddr = v4.peer }), row.ReasonSpoofedAddress},
		{"answer for another address", change(func(a *bpftest.ARPPacket) { a.Operation, a.SenderAddr = 2, v4.peer }), row.ReasonSpoofedAddress},
		{"another MAC inside", change(func(a *bpftest.ARPPacket) { a.SenderMAC = mac(peerLink) }), row.ReasonSpoofedMAC},
		{"another MAC outside", change(func(a *bpftest.ARPPacket) { a.SrcMAC = mac(peerLink) }), row.ReasonSpoofedMAC},
		{"another hardware", set(14, 0, 6)(request.Bytes()), row.ReasonMalformed},
		{"another protocol", set(16, 0x86, 0xdd)(request.Bytes()), row.ReasonMalformed},
		{"hardware addresses of 8 bytes", set(18, 8)(request.Bytes()), row.ReasonMalformed},
		{"protocol addresses of 16 bytes", set(19, 16)(request.Bytes()), row.ReasonMalformed},
	} {
		t.Run(r.name, func(t *testing.T) { b.expect(t, "from_workload", r.frame, bpftest.Meta{}, r.want) })
	}
	got := b.expect(t, "from_workload", request.Bytes(), bpftest.Meta{}, row.ReasonAnsweredARP)
	want := bpftest.ARPPacket{
		DstMAC: mac(webLink), SrcMAC: bpftest.Gateway, Operation: 2, SenderMAC: bpftest.Gateway,
		SenderAddr: addr("169.254.1.1"), TargetMAC: mac(webLink), TargetAddr: v4.web,
	}.Bytes()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func testNeighbour(t *testing.T, b *bench) {
	t.Helper()
	gateway, local := addr("fe80::1"), addr("fe80::858:1")
	solicit := bpftest.Neighbour(135, v6.web, addr("ff02::1:ff00:1"), gateway, mac(webLink))
	solicit.SrcMAC = mac(webLink)
	advert := bpftest.Neighbour(136, v6.web, local, v6.web, mac(webLink))
	advert.SrcMAC = mac(webLink)
	other := func(kind uint8) bpftest.Packet {
		return with(solicit, func(p *bpftest.Packet) { p.ICMPType = kind })
	}
	target := func(p bpftest.Packet, a netip.Addr) bpftest.Packet {
		b := a.As16()
		p.Payload = append(b[:], p.Payload[16:]...)
		return p
	}
	report := with(other(143), func(p *bpftest.Packet) {
		p.Extensions = []bpftest.Extension{{Proto: bpftest.HopOpts, Data: []byte{5, 2, 0, 0, 1, 0}}}
	})
	b.table(t, "from_workload", []packetRow{
		{name: "by its link-local address", packet: with(solicit, func(p *bpftest.Packet) { p.Src = local }), want: row.ReasonAnsweredND},
		{name: "another task asked", packet: target(solicit, v6.peer), want: row.ReasonAnsweredND},
		{name: "without option", packet: with(solicit, func(p *bpftest.Packet) { p.Payload = p.Payload[:16] }), want: row.ReasonAnsweredND},
		{name: "own address asked", packet: target(solicit, v6.web), want: row.ReasonChatter},
		{name: "duplicate address detection", packet: with(target(solicit, v6.web), func(p *bpftest.Packet) { p.Src = netip.IPv6Unspecified() }), want: row.ReasonChatter},
		{name: "from another address", packet: with(solicit, func(p *bpftest.Packet) { p.Src = v6.peer }), want: row.ReasonSpoofedAddress},
		{name: "multicast asked", packet: target(solicit, addr("ff02::1")), want: row.ReasonMalformed},
		{name: "from afar", packet: with(solicit, func(p *bpftest.Packet) { p.TTL = 254 }), want: row.ReasonMalformed},
		{name: "cut", packet: with(solicit, func(p *bpftest.Packet) { p.Payload = p.Payload[:15] }), want: row.ReasonMalformed},
		{name: "advertisement to the node", packet: advert, want: row.ReasonToHost},
		{name: "advertisement to all", packet: with(advert, func(p *bpftest.Packet) { p.Dst = addr("ff02::1") }), want: row.ReasonChatter},
		{name: "advertisement of its link-local address", packet: target(advert, local), want: row.ReasonChatter},
		{name: "advertisement of another address", packet: target(advert, v6.peer), want: row.ReasonSpoofedAddress},
		{name: "advertisement from afar", packet: with(advert, func(p *bpftest.Packet) { p.TTL = 1 }), want: row.ReasonMalformed},
		{name: "advertisement cut", packet: with(advert, func(p *bpftest.Packet) { p.Payload = p.Payload[:8] }), want: row.ReasonMalformed},
		{name: "advertisement to another task", packet: with(target(advert, gateway), func(p *bpftest.Packet) { p.Dst = v6.peer }), want: row.ReasonChatter},
		{name: "router solicitation", packet: other(133), want: row.ReasonChatter},
		{name: "router advertisement", packet: with(other(134), func(p *bpftest.Packet) { p.Dst = v6.peer }), want: row.ReasonChatter},
		{name: "redirect", packet: with(other(137), func(p *bpftest.Packet) { p.Dst = v6.peer }), want: row.ReasonChatter},
		{name: "group report", packet: report, want: row.ReasonChatter},
		{name: "group query", packet: other(130), want: row.ReasonChatter},
		{name: "igmp", packet: with(tcp(v4.web, addr("224.0.0.22")), func(p *bpftest.Packet) { p.Proto = bpftest.IGMP }), want: row.ReasonChatter},
	})
	got := b.expect(t, "from_workload", solicit.Bytes(), bpftest.Meta{}, row.ReasonAnsweredND)
	answer := bpftest.Neighbour(136, gateway, v6.web, gateway, bpftest.Gateway)
	answer.SrcMAC, answer.DstMAC, answer.ICMPRest = bpftest.Gateway, mac(webLink), [4]byte{0xe0}
	if diff := cmp.Diff(answer.Bytes(), got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// testTooBig sends what just fits the way and what is one byte more.
func testTooBig(t *testing.T, b *bench) {
	t.Helper()
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			fits := with(udp(a.web, a.remote), func(p *bpftest.Packet) { p.Payload = make([]byte, 1450-a.head()-8) })
			over := with(fits, func(p *bpftest.Packet) { p.Payload = make([]byte, len(fits.Payload)+1) })
			segments := with(tcp(a.web, a.remote), func(p *bpftest.Packet) { p.Payload = make([]byte, 2800) })
			more := with(over, func(p *bpftest.Packet) { p.Proto = a.icmp() })
			mss := uint32(1450 - a.head() - 20)
			rows := []packetRow{
				{name: "fits", packet: fits, want: row.ReasonEncapsulated},
				{name: "one byte more", packet: over, want: row.ReasonAnsweredTooBig},
				{name: "segments fit", packet: segments, meta: bpftest.Meta{GSOSize: mss}, want: row.ReasonEncapsulated},
				{name: "segments one byte more", packet: segments, meta: bpftest.Meta{GSOSize: mss + 1}, want: row.ReasonAnsweredTooBig},
				{name: "one byte more, to this node", packet: with(over, func(p *bpftest.Packet) { p.Dst = a.peer }), want: row.ReasonDelivered},
				{name: "later fragment", packet: with(over, func(p *bpftest.Packet) { p.Frag |= 100 }), want: row.ReasonTooBig},
				{name: "echo", packet: with(more, func(p *bpftest.Packet) { p.ICMPType = a.echo(true) }), want: row.ReasonAnsweredTooBig},
				{name: "error", packet: with(more, func(p *bpftest.Packet) { p.ICMPType = 3 }), want: row.ReasonTooBig},
			}
			if a.web.Is4() {
				rows = append(rows, packetRow{
					name: "may be fragmented", packet: with(over, func(p *bpftest.Packet) { p.Frag = 0 }), want: row.ReasonEncapsulated,
				})
			}
			b.table(t, "from_workload", rows)
			testTooBigAnswer(t, b, a, over.Bytes(), bpftest.Meta{})
			testTooBigAnswer(t, b, a, segments.Bytes(), bpftest.Meta{GSOSize: mss + 1})
		})
	}
	small := newBench(t, "workload", change{tables: func(t *bpftest.Tables) {
		for key, block := range t.Blocks {
			block.MTU = 60
			t.Blocks[key] = block
		}
	}})
	t.Run("nothing to quote", func(t *testing.T) {
		p := with(tcp(v4.web, v4.remote), func(p *bpftest.Packet) { p.Payload = make([]byte, 50) })
		small.expect(t, "from_workload", p.Bytes(), bpftest.Meta{}, row.ReasonTooBig)
	})
}

func testTooBigAnswer(t *testing.T, b *bench, a addrs, frame []byte, meta bpftest.Meta) {
	t.Helper()
	got := b.expect(t, "from_workload", frame, meta, row.ReasonAnsweredTooBig)
	want := bpftest.Packet{
		DstMAC: mac(webLink), SrcMAC: bpftest.Gateway, Src: addr("169.254.1.1"), Dst: a.web,
		Proto: bpftest.ICMP, ICMPType: 3, ICMPCode: 4, ICMPRest: [4]byte{0, 0, 1450 >> 8, 1450 & 0xff},
		Payload: frame[14 : 14+128],
	}
	if !a.web.Is4() {
		want.Src, want.Proto, want.ICMPType, want.ICMPCode, want.TTL = addr("fe80::1"), bpftest.ICMPv6, 2, 0, 255
	}
	if diff := cmp.Diff(want.Bytes(), got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// testNoDevice sends by the kernel's device, where there is one and where there is none.
func testNoDevice(t *testing.T, b *bench) {
	t.Helper()
	slow := newBench(t, "workload", change{config: func(c *bpf.Config) { c.SlowEncap = true }})
	none := newBench(t, "workload", change{config: func(c *bpf.Config) { c.SlowEncap, c.Tunnel = true, 0 }})
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			frame := tcp(a.web, a.remote).Bytes()
			got := slow.expect(t, "from_workload", frame, bpftest.Meta{}, row.ReasonEncapsulated)
			if !bytes.Equal(got[14:], frame[14:]) {
				t.Errorf("the device got % x, want the packet as it was", got)
			}
			none.expect(t, "from_workload", frame, bpftest.Meta{}, row.ReasonEncapFailed)
			b.seen[row.ReasonEncapFailed] = true
		})
	}
}

// testNobody runs a program on a link that belongs to no task.
func testNobody(t *testing.T, b *bench, program string) {
	t.Helper()
	nobody := newBench(t, "workload", change{tables: func(t *bpftest.Tables) { clear(t.Workloads) }})
	nobody.expect(t, program, tcp(v4.web, v4.peer).Bytes(), bpftest.Meta{}, row.ReasonUnknownLink)
	b.seen[row.ReasonUnknownLink] = true
}
