// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// The table of vip.h, by way of from_workload, from_underlay and to_workload: what a client sends to
// a VIP, and what a backend answers, byte by byte.

// task is one of the two tasks that speak to each other; both are on links of the test's namespace.
type task struct {
	link         uint32
	mac          bpftest.MAC
	addr4, addr6 netip.Addr
}

func (k task) addr(v6 bool) netip.Addr {
	if v6 {
		return k.addr6
	}
	return k.addr4
}

var (
	client = task{2, bpftest.MAC{0x0a, 0x58, 10, 1, 0, 5}, netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("fd00:1::5")}
	server = task{3, bpftest.MAC{0x0a, 0x58, 10, 1, 0, 6}, netip.MustParseAddr("10.1.0.6"), netip.MustParseAddr("fd00:1::6")}
	remote = task{0, bpftest.MAC{}, netip.MustParseAddr("10.1.1.7"), netip.MustParseAddr("fd00:1:0:1::7")}
)

// wires is the packet programs over maps of their own.
type wires struct {
	*namespace
	set *bpftest.Set
}

func newWires(t *testing.T, object string) *wires {
	t.Helper()
	n := enterNamespace(t)
	n.do(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}))
	set := bpftest.Borrow(t, object, func() (*bpftest.Set, error) {
		spec, err := bpftest.Spec(object, bpf.Config{NodeAddr: nodeAddr, Underlay: 1, TunnelPort: 4789})
		if err != nil {
			return nil, err
		}
		return bpftest.Load(spec)
	})
	w := &wires{n, set}
	for _, k := range []task{client, server} {
		w.put("workloads", k.link, row.Workload{
			VNI: bedVNI, Identity: row.IdentityUngrouped, MTU: 1450, MAC: k.mac, Block4: 24, Block6: 64,
			Addr4: row.AddrOf(k.addr4), Addr6: row.AddrOf(k.addr6),
		})
		for _, a := range []netip.Addr{k.addr4, k.addr6} {
			w.put("endpoints", row.EndpointKey{VNI: bedVNI, Addr: row.AddrOf(a)},
				row.Endpoint{Ifindex: k.link, Identity: row.IdentityUngrouped, MAC: k.mac})
		}
	}
	for _, block := range []string{"10.1.0.0", "fd00:1::"} {
		w.put("blocks", row.BlockKey{VNI: bedVNI, Addr: row.AddrOf(netip.MustParseAddr(block))},
			row.Block{MTU: 1450, Flags: row.BlockLocal})
	}
	w.put("verdicts", row.VerdictKey{VNI: bedVNI, Src: row.IdentityUngrouped, Dst: row.IdentityUngrouped},
		row.Verdict{Action: row.VerdictAllow})
	return w
}

func (w *wires) put(table string, key, value any) {
	w.t.Helper()
	w.do(w.set.Maps[table].Put(key, value))
}

func vipKey(at netip.AddrPort, proto uint8) row.VIPKey {
	return row.VIPKey{VNI: bedVNI, Addr: row.AddrOf(at.Addr()), Port: row.Port(at.Port()), Proto: proto}
}

// vip sets the backends of a VIP for TCP and UDP.
func (w *wires) vip(at netip.AddrPort, backends ...backend) {
	w.t.Helper()
	id := uint32(at.Port())<<8 | uint32(at.Addr().BitLen())
	vip, slots := vipRows(id, backends)
	for slot, b := range slots {
		w.put("backends", row.BackendKey{VIP: id, Slot: uint16(slot)}, b)
	}
	for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
		w.put("vips", vipKey(at, proto), vip)
	}
}

// from runs what a task sends.
func (w *wires) from(k task, p bpftest.Packet) bpftest.Result {
	w.t.Helper()
	p.SrcMAC, p.DstMAC = k.mac, bpftest.Gateway
	return w.run("from_workload", p.Bytes(), bpftest.Meta{Ifindex: k.link})
}

func (w *wires) run(program string, frame []byte, m bpftest.Meta) bpftest.Result {
	w.t.Helper()
	r, err := w.set.Run(program, frame, m)
	w.do(err)
	return r
}

// wantTo checks that a packet was delivered to a task as want.
func (w *wires) wantTo(k task, r bpftest.Result, want bpftest.Packet) {
	w.t.Helper()
	want.SrcMAC, want.DstMAC = bpftest.Gateway, k.mac
	if r.Action != bpftest.Redirect || r.Reason != row.ReasonDelivered {
		w.t.Fatalf("%s, %s, want redirect, delivered", r.Action, r.Reason)
	}
	if diff := cmp.Diff(r.Out, want.Bytes()); diff != "" {
		w.t.Fatalf("frame (-got +want):\n%s", diff)
	}
}

// packet is a packet between two sockets.
func packet(proto uint8, src, dst netip.AddrPort, payload string) bpftest.Packet {
	return bpftest.Packet{
		Proto: proto, Src: src.Addr(), SPort: src.Port(), Dst: dst.Addr(), DPort: dst.Port(), Flags: bpftest.SYN,
		Payload: []byte(payload), ID: 77,
	}
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// vipOf is the VIP of a family.
func vipOf(v6 bool) netip.AddrPort {
	if v6 {
		return vip6
	}
	return vip4
}

// each calls f for both families and protocols.
func each(f func(v6 bool, proto uint8)) {
	for _, v6 := range []bool{false, true} {
		for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
			f(v6, proto)
		}
	}
}

func TestVIPPerPacketThereAndBack(t *testing.T) {
	w := newWires(t, "workload")
	each(func(v6 bool, proto uint8) {
		c, s, v := at(client.addr(v6), 40000), at(server.addr(v6), 8080), vipOf(v6)
		w.vip(v, backend{s.String(), 1})
		for _, payload := range []string{"", "x", "some more"} {
			w.wantTo(server, w.from(client, packet(proto, c, v, payload)), packet(proto, c, s, payload))
			w.wantTo(client, w.from(server, packet(proto, s, c, payload)), packet(proto, v, c, payload))
		}
		// A flow of the same backend that has nothing to do with the VIP.
		w.wantTo(client, w.from(server, packet(proto, s, at(c.Addr(), 40001), "")), packet(proto, s, at(c.Addr(), 40001), ""))
		w.wantTo(server, w.from(client, packet(proto, at(c.Addr(), 40001), s, "")), packet(proto, at(c.Addr(), 40001), s, ""))
	})
	got, err := bpftest.Rows[row.FlowKey, row.Translation](w.set, "translations")
	w.do(err)
	want := make(map[row.FlowKey]row.Translation)
	each(func(v6 bool, proto uint8) {
		c, s, v := at(client.addr(v6), 40000), at(server.addr(v6), 8080), vipOf(v6)
		id := uint32(v.Port())<<8 | uint32(v.Addr().BitLen())
		_, slots := vipRows(id, one(s.String()))
		state := uint8(row.TranslationAsked) // a SYN is no answer
		if proto == bpftest.UDP {
			state = row.TranslationAnswered
		}
		want[flowKey(proto, c, v)] = row.Translation{To: row.PeerOf(s)}
		want[flowKey(proto, s, c)] = row.Translation{To: row.PeerOf(v), BackendID: slots[0].ID, VIPID: id, State: state}
	})
	if diff := cmp.Diff(got, want, cmpopts.IgnoreFields(row.Translation{}, "Since"), cmpopts.EquateComparable(row.FlowKey{}, row.Peer{})); diff != "" {
		t.Errorf("translations (-got +want):\n%s", diff)
	}
}

// TestVIPPerPacketGivesThePortUp: a port that had a flow to a VIP is used for one to the backend itself, and
// then again for the VIP.
func TestVIPPerPacketGivesThePortUp(t *testing.T) {
	w := newWires(t, "workload")
	each(func(v6 bool, proto uint8) {
		c, s, v := at(client.addr(v6), 40000), at(server.addr(v6), 8080), vipOf(v6)
		w.vip(v, backend{s.String(), 1})
		for range 2 {
			w.wantTo(server, w.from(client, packet(proto, c, v, "")), packet(proto, c, s, ""))
			w.wantTo(client, w.from(server, packet(proto, s, c, "")), packet(proto, v, c, ""))
			w.wantTo(server, w.from(client, packet(proto, c, s, "")), packet(proto, c, s, ""))
			w.wantTo(client, w.from(server, packet(proto, s, c, "")), packet(proto, s, c, ""))
		}
	})
}

func flowKey(proto uint8, src, dst netip.AddrPort) row.FlowKey {
	return row.FlowKey{
		VNI: bedVNI, Src: row.AddrOf(src.Addr()), Dst: row.AddrOf(dst.Addr()), Sport: row.Port(src.Port()),
		Dport: row.Port(dst.Port()), Proto: proto,
	}
}

// A task behind a VIP that it uses itself: it never meets its own address as a sender's.
func TestVIPPerPacketHairpin(t *testing.T) {
	w := newWires(t, "workload")
	each(func(v6 bool, proto uint8) {
		own, v := client.addr(v6), vipOf(v6)
		w.vip(v, backend{at(own, 8080).String(), 1})
		for _, port := range []uint16{40000, v.Port()} { // the second: its answers go to the VIP itself
			w.wantTo(client, w.from(client, packet(proto, at(own, port), v, "ask")),
				packet(proto, at(v.Addr(), port), at(own, 8080), "ask"))
			w.wantTo(client, w.from(client, packet(proto, at(own, 8080), at(v.Addr(), port), "answer")),
				packet(proto, v, at(own, port), "answer"))
		}
	})
}

// Such a task says that nobody takes what it sent to itself, or has another word about it: it hears that of the VIP.
func TestVIPPerPacketHairpinNews(t *testing.T) {
	w := newWires(t, "workload")
	each(func(v6 bool, proto uint8) {
		own, v := client.addr(v6), vipOf(v6)
		kinds := [][2]uint8{{3, 3}, {3, 10}, {11, 1}}
		if v6 {
			kinds = [][2]uint8{{1, 4}, {1, 1}, {3, 1}}
		}
		for _, kind := range kinds {
			w.vip(v, backend{at(own, 8080).String(), 1})
			for _, port := range []uint16{40000, v.Port()} {
				sent, met := packet(proto, at(own, port), v, "ask"), packet(proto, at(v.Addr(), port), at(own, 8080), "ask")
				w.wantTo(client, w.from(client, sent), met)
				w.wantTo(client, w.from(client, complaint(own, kind[0], kind[1], met)), complaintAsQuoted(v.Addr(), kind, sent, met))
			}
		}
	})
	own := client.addr4
	w.vip(vip4, backend{at(own, 8080).String(), 1})
	stray := packet(bpftest.UDP, at(vip4.Addr(), 41000), at(own, 8080), "never sent")
	if got := w.from(client, complaint(own, 3, 3, stray)); got.Reason == row.ReasonDelivered {
		t.Errorf("an error about what was never sent: %s", got.Reason)
	}
}

// UDP over IPv4 may go without a sum; one that comes out as zero is written as its complement.
func TestVIPPerPacketUDPSums(t *testing.T) {
	w := newWires(t, "workload")
	c, s := at(client.addr4, 40000), at(server.addr4, 8080)
	w.vip(vip4, backend{s.String(), 1})
	p, want := packet(bpftest.UDP, c, vip4, "no sum"), packet(bpftest.UDP, c, s, "no sum")
	p.NoSum, want.NoSum = true, true
	w.wantTo(server, w.from(client, p), want)
	for _, v6 := range []bool{false, true} {
		c, s, v := at(client.addr(v6), 40000), at(server.addr(v6), 8080), vipOf(v6)
		w.vip(v, backend{s.String(), 1})
		found := false
		for word := range 1 << 16 {
			payload := string([]byte{byte(word >> 8), byte(word)})
			frame := packet(bpftest.UDP, c, s, payload).Bytes()
			if sum := frame[len(frame)-4 : len(frame)-2]; sum[0] == 0xff && sum[1] == 0xff {
				found = true
				w.wantTo(server, w.from(client, packet(bpftest.UDP, c, v, payload)), packet(bpftest.UDP, c, s, payload))
			}
		}
		if !found {
			t.Error("no payload gives a sum of zero")
		}
	}
}

// known gives backends a latency so long that none is on trial, nor silent while a test runs.
func (w *wires) known(slots []row.Backend) {
	w.t.Helper()
	for _, b := range slots {
		w.put("feedbacks", b.ID, row.Feedback{Latency: 1 << 31, Measured: monotonic(w.t)})
	}
}

// wantsDrop checks that a packet was dropped for a reason.
func (w *wires) wantDrop(r bpftest.Result, reason row.Reason) {
	w.t.Helper()
	if r.Action != bpftest.Drop || r.Reason != reason {
		w.t.Errorf("%s, %s, want drop, %s", r.Action, r.Reason, reason)
	}
}

func TestVIPPerPacketWithoutBackend(t *testing.T) {
	w := newWires(t, "workload")
	each(func(v6 bool, proto uint8) {
		c, v := at(client.addr(v6), 40000), vipOf(v6)
		for _, list := range [][]backend{
			nil, {{at(server.addr(v6), 8080).String(), 0}}, {{at(server.addr(!v6), 8080).String(), 1}},
		} {
			w.vip(v, list...)
			w.wantDrop(w.from(client, packet(proto, c, v, "")), row.ReasonNoBackend)
		}
	})
	rows, err := bpftest.Rows[row.FlowKey, row.Translation](w.set, "translations")
	w.do(err)
	if len(rows) != 0 {
		t.Errorf("%d translations of refused packets, want none", len(rows))
	}
}

// What is no VIP goes the way it would have gone.
func TestVIPPerPacketLeavesOthers(t *testing.T) {
	w := newWires(t, "workload")
	w.vip(vip4, backend{at(server.addr4, 8080).String(), 1})
	w.from(client, packet(bpftest.UDP, at(client.addr4, 1), vip4, "")) // the link is marked
	c := at(client.addr4, 40000)
	for name, p := range map[string]bpftest.Packet{
		"another port":    packet(bpftest.UDP, c, at(vip4.Addr(), 81), ""),
		"another address": packet(bpftest.UDP, c, at(vip4.Addr().Next(), 80), ""),
		"a ping":          {Proto: bpftest.ICMP, Src: c.Addr(), Dst: vip4.Addr(), ICMPType: 8},
		"another network": func() bpftest.Packet {
			w.put("vips", row.VIPKey{VNI: 8, Addr: row.AddrOf(vip4.Addr()), Port: row.Port(82), Proto: bpftest.UDP}, row.VIP{ID: 5, Backends: 1})
			return packet(bpftest.UDP, c, at(vip4.Addr(), 82), "")
		}(),
		"later fragment of another": func() bpftest.Packet {
			p := packet(bpftest.UDP, c, vip4, "rest")
			p.Frag = 2
			return p
		}(),
	} {
		p.SrcMAC, p.DstMAC = client.mac, bpftest.Gateway
		r := w.run("from_workload", p.Bytes(), bpftest.Meta{Ifindex: client.link})
		if r.Reason != row.ReasonToHost || !slices.Equal(r.Out, p.Bytes()) {
			t.Errorf("%s: %s, frame %x, want it left to the host as it was", name, r.Reason, r.Out)
		}
	}
}

// backendOf sends one packet and tells which of the server's ports it was given.
func (w *wires) backendOf(p bpftest.Packet) uint16 {
	w.t.Helper()
	r := w.from(client, p)
	if r.Reason != row.ReasonDelivered {
		w.t.Fatalf("%s, want delivered", r.Reason)
	}
	if err := bpftest.Check(r.Out); err != nil {
		w.t.Fatal(err)
	}
	return uint16(r.Out[36])<<8 | uint16(r.Out[37])
}

func TestVIPPerPacketFlowsStay(t *testing.T) {
	w := newWires(t, "workload")
	list := []backend{{"10.1.0.6:1", 1}, {"10.1.0.6:2", 1}, {"10.1.0.6:3", 1}}
	w.vip(vip4, list...)
	_, slots := vipRows(uint32(vip4.Port())<<8|32, list)
	w.known(slots)
	first := make(map[uint8]uint16)
	send := func(proto, flags uint8) uint16 {
		p := packet(proto, at(client.addr4, 40000), vip4, "")
		p.Flags = flags
		return w.backendOf(p)
	}
	tests := []struct {
		name  string
		list  []backend // nil: all but the first one chosen
		proto uint8
		flags uint8
		stays bool
	}{
		{"more data", list, bpftest.TCP, bpftest.ACK, true},
		{"the SYN again", list, bpftest.TCP, bpftest.SYN, true},
		{"datagram", list, bpftest.UDP, 0, true},
		{"other slots, data", []backend{list[2], list[0], list[1]}, bpftest.TCP, bpftest.ACK, true},
		{"other slots, SYN", []backend{list[1], list[2], list[0]}, bpftest.TCP, bpftest.SYN, true},
		{"other slots, datagram", []backend{list[2], list[0], list[1]}, bpftest.UDP, 0, true},
		{"gone, data", nil, bpftest.TCP, bpftest.ACK, true},
		{"gone, datagram", nil, bpftest.UDP, 0, false},
		{"gone, SYN", nil, bpftest.TCP, bpftest.SYN, false},
	}
	for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
		first[proto] = send(proto, bpftest.SYN)
	}
	for _, tt := range tests {
		for range 20 {
			backends := tt.list
			if backends == nil {
				backends = slices.Delete(slices.Clone(list), int(first[tt.proto])-1, int(first[tt.proto]))
			}
			w.vip(vip4, backends...)
			got := send(tt.proto, tt.flags)
			if (got == first[tt.proto]) != tt.stays {
				t.Fatalf("%s: backend %d after %d, stays should be %t", tt.name, got, first[tt.proto], tt.stays)
			}
			if !tt.stays {
				break
			}
		}
	}
}

// Draining: what is under way stays, a new connection with the ports of an old one does not.
func TestVIPPerPacketDraining(t *testing.T) {
	w := newWires(t, "workload")
	w.vip(vip4, backend{"10.1.0.6:1", 1})
	p := packet(bpftest.UDP, at(client.addr4, 40000), vip4, "")
	w.backendOf(p)
	p.Proto = bpftest.TCP
	w.backendOf(p)
	w.vip(vip4, backend{"10.1.0.6:1", 0}, backend{"10.1.0.6:2", 1})
	p.Flags = bpftest.ACK
	if got := w.backendOf(p); got != 1 {
		t.Errorf("data went to backend %d, want 1", got)
	}
	p.Flags = bpftest.SYN
	if got := w.backendOf(p); got != 2 {
		t.Errorf("SYN went to backend %d, want 2", got)
	}
	p.Proto = bpftest.UDP
	if got := w.backendOf(p); got != 1 {
		t.Errorf("datagram went to backend %d, want 1", got)
	}
}

// Eight times as many flows come as there is room for. A connection that goes on keeps its backend, and each new one
// gets one, and its answers come from the VIP: the table forgets who was silent for long. Datagrams that are never
// answered go on as well, and the answer that comes at last is known.
func TestVIPPerPacketExhaustion(t *testing.T) {
	w := newWires(t, "workload")
	list := []backend{{"10.1.0.6:1", 1}, {"10.1.0.6:2", 1}, {"10.1.0.6:3", 1}}
	w.vip(vip4, list...)
	kept := packet(bpftest.TCP, at(client.addr4, 40000), vip4, "")
	first := w.backendOf(kept)
	kept.Flags = bpftest.ACK
	oneWay := packet(bpftest.UDP, at(client.addr4, 40001), vip4, "")
	unanswered := w.backendOf(oneWay)
	translations := w.set.Maps["translations"]
	const often = 256 // flows between two packets of the one that goes on
	keys, values := make([]row.FlowKey, often), make([]row.Translation, often)
	for round := range 8 * int(translations.MaxEntries()) / often {
		for i := range keys {
			n := round*often + i
			src := netip.AddrFrom4([4]byte{10, 2, byte(n >> 16), byte(n >> 8)})
			keys[i] = flowKey(bpftest.TCP, at(src, uint16(n)), vip4)
			values[i] = row.Translation{To: row.PeerOf(netip.MustParseAddrPort(list[0].at))}
		}
		if n, err := translations.BatchUpdate(keys, values, nil); err != nil || n != often {
			t.Fatalf("%d of %d flows in round %d: %v", n, often, round, err)
		}
		if got := w.backendOf(kept); got != first {
			t.Fatalf("after %d flows the connection went to backend %d, had %d", (round+1)*often, got, first)
		}
		if got := w.backendOf(oneWay); got != unanswered {
			t.Fatalf("after %d flows the datagrams went to backend %d, had %d", (round+1)*often, got, unanswered)
		}
		c := at(client.addr4, uint16(20000+round))
		b := w.backendOf(packet(bpftest.TCP, c, vip4, ""))
		w.wantTo(client, w.from(server, packet(bpftest.TCP, at(server.addr4, b), c, "")), packet(bpftest.TCP, vip4, c, ""))
	}
	c := at(client.addr4, 40001)
	w.wantTo(client, w.from(server, packet(bpftest.UDP, at(server.addr4, unanswered), c, "")), packet(bpftest.UDP, vip4, c, ""))
}

func TestVIPPerPacketSpreads(t *testing.T) {
	w := newWires(t, "workload")
	w.vip(vip4, backend{"10.1.0.6:1", 1}, backend{"10.1.0.6:2", 1}, backend{"10.1.0.6:3", 1})
	hits := make(map[uint16]int)
	for port := range uint16(900) {
		hits[w.backendOf(packet(bpftest.TCP, at(client.addr4, 1000+port), vip4, ""))]++
	}
	for b := range uint16(3) {
		if hits[b+1] < 200 { // 300 expected, deviation 14
			t.Errorf("flows per backend are %v, want about 300 each", hits)
		}
	}
}

// One port of the client for two VIPs that share two backends: their answers stay apart.
func TestVIPPerPacketTellsAnswersApart(t *testing.T) {
	w := newWires(t, "workload")
	other := at(vip4.Addr().Next(), 90)
	list := []backend{{"10.1.0.6:1", 1}, {"10.1.0.6:2", 1}}
	w.vip(vip4, list...)
	w.vip(other, list...)
	same := 0
	for port := range uint16(400) {
		c := at(client.addr4, 1000+port)
		if w.backendOf(packet(bpftest.TCP, c, vip4, "")) == w.backendOf(packet(bpftest.TCP, c, other, "")) {
			same++
		}
	}
	if same > 100 { // three choices: 1 of 8 (50) is expected to meet the taken one each time
		t.Errorf("%d of 400 pairs of flows share a backend, want about 50", same)
	}
}

// fragments are both of a datagram.
func fragments(p bpftest.Packet, id uint16) (first, later bpftest.Packet) {
	p.ID, p.Frag, p.NoSum = id, bpftest.MoreFragments, false
	first = p
	later = p
	later.Frag, later.L4 = 2, []byte("the rest of it  ")
	return first, later
}

func TestVIPPerPacketFragments(t *testing.T) {
	w := newWires(t, "workload")
	for _, v6 := range []bool{false, true} {
		c, s, v := at(client.addr(v6), 40000), at(server.addr(v6), 8080), vipOf(v6)
		w.vip(v, backend{s.String(), 1})
		for id := range uint16(3) {
			first, later := fragments(packet(bpftest.UDP, c, v, "8 bytes."), id)
			wantFirst, wantLater := fragments(packet(bpftest.UDP, c, s, "8 bytes."), id)
			w.wantTo(server, w.from(client, first), wantFirst)
			w.wantTo(server, w.from(client, later), wantLater)
			first, later = fragments(packet(bpftest.UDP, s, c, "8 bytes."), id)
			wantFirst, wantLater = fragments(packet(bpftest.UDP, v, c, "8 bytes."), id)
			w.wantTo(client, w.from(server, first), wantFirst)
			w.wantTo(client, w.from(server, later), wantLater)
		}
	}
}

// Datagrams of two protocols may have one id: their later fragments are told apart.
func TestVIPPerPacketFragmentsOfTwoProtocols(t *testing.T) {
	w := newWires(t, "workload")
	for _, v6 := range []bool{false, true} {
		tcpID, udpID := uint16(5), uint16(5)
		if v6 {
			udpID = 6 // RFC 8200 4.5: an id is of one packet between two addresses
		}
		c, v := at(client.addr(v6), 40000), vipOf(v6)
		backends := map[uint8]netip.AddrPort{bpftest.TCP: at(client.addr(v6), 8080), bpftest.UDP: at(server.addr(v6), 8080)}
		for proto, b := range backends {
			id := uint32(proto)<<8 | uint32(v.Addr().BitLen())
			vip, slots := vipRows(id, one(b.String()))
			w.put("backends", row.BackendKey{VIP: id}, slots[0])
			w.put("vips", vipKey(v, proto), vip)
		}
		tcpFirst, tcpLater := fragments(packet(bpftest.TCP, c, v, "8 bytes."), tcpID)
		udpFirst, udpLater := fragments(packet(bpftest.UDP, c, v, "8 bytes."), udpID)
		w.from(client, udpFirst)
		w.from(client, tcpFirst)
		_, want := fragments(packet(bpftest.UDP, c, backends[bpftest.UDP], "8 bytes."), udpID)
		w.wantTo(server, w.from(client, udpLater), want)
		_, want = fragments(packet(bpftest.TCP, v, backends[bpftest.TCP], "8 bytes."), tcpID) // as if the VIP asked
		w.wantTo(client, w.from(client, tcpLater), want)
	}
}

func TestVIPPerPacketTruncated(t *testing.T) {
	w := newWires(t, "workload")
	each(func(v6 bool, proto uint8) {
		v := vipOf(v6)
		w.vip(v, backend{at(server.addr(v6), 8080).String(), 1})
		p := packet(proto, at(client.addr(v6), 40000), v, "payload")
		p.SrcMAC, p.DstMAC = client.mac, bpftest.Gateway
		whole := p.Bytes()
		for size := len(whole) - len("payload") - 1; size >= 54; size-- {
			r, err := w.set.Run("from_workload", whole[:size], bpftest.Meta{Ifindex: client.link})
			w.do(err)
			w.wantDrop(r, row.ReasonMalformed)
		}
	})
	rows, err := bpftest.Rows[row.FlowKey, row.Translation](w.set, "translations")
	w.do(err)
	if len(rows) != 0 {
		t.Errorf("%d translations of packets cut short, want none", len(rows))
	}
}

// seed writes what vip_out would have for a flow of the client, into maps of other programs.
func (w *wires) seed(proto uint8, c, v, s netip.AddrPort) {
	w.t.Helper()
	w.put("translations", flowKey(proto, s, c), row.Translation{To: row.PeerOf(v)})
}

// Answers of another node, out of the tunnel.
func TestVIPPerPacketAnswerFromTunnel(t *testing.T) {
	w := newWires(t, "tunnel")
	vtep := netip.MustParseAddr("192.0.2.2")
	w.put("vteps", row.AddrOf(vtep), row.VTEP{})
	tunnel := bpftest.Tunnel{Outer: bpftest.Packet{Src: vtep, Dst: nodeAddr, SPort: 50000, NoSum: true}, VNI: bedVNI, Policy: row.IdentityUngrouped}
	each(func(v6 bool, proto uint8) {
		c, s, v := at(client.addr(v6), 40000), at(remote.addr(v6), 8080), vipOf(v6)
		w.seed(proto, c, v, s)
		inner := packet(proto, s, c, "answer").Bytes()
		w.put("vip_links", client.link, uint32(0))
		plain := w.run("from_underlay", tunnel.Wrap(inner), bpftest.Meta{})
		if v6 && plain.Reason == row.ReasonSlowPath {
			t.Log("this kernel is below 6.3: the VXLAN device takes IPv6 out of the tunnel")
			return
		}
		w.wantTo(client, plain, packet(proto, s, c, "answer"))
		w.put("vip_links", client.link, uint32(1))
		w.wantTo(client, w.run("from_underlay", tunnel.Wrap(inner), bpftest.Meta{}), packet(proto, v, c, "answer"))
	})
}

// Answers of a backend that is no task, by way of the node's stack.
func TestVIPPerPacketAnswerFromHost(t *testing.T) {
	w := newWires(t, "workload")
	each(func(v6 bool, proto uint8) {
		host := netip.MustParseAddr("192.0.2.1")
		if v6 {
			host = netip.MustParseAddr("2001:db8::1")
		}
		c, s, v := at(client.addr(v6), 40000), at(host, 8080), vipOf(v6)
		w.vip(v, backend{s.String(), 1})
		there := w.from(client, packet(proto, c, v, "ask"))
		want := packet(proto, c, s, "ask")
		want.SrcMAC, want.DstMAC = client.mac, bpftest.Gateway
		if diff := cmp.Diff(there.Out, want.Bytes()); there.Reason != row.ReasonToHost || diff != "" {
			t.Errorf("%s, want to_host; frame (-got +want):\n%s", there.Reason, diff)
		}
		back := w.run("to_workload", packet(proto, s, c, "answer").Bytes(), bpftest.Meta{Ifindex: client.link})
		if diff := cmp.Diff(back.Out, packet(proto, v, c, "answer").Bytes()); back.Action != bpftest.Next || diff != "" {
			t.Errorf("%s, want next; frame (-got +want):\n%s", back.Action, diff)
		}
	})
}

// A flow that the table forgot, as it does under exhaustion: its next packet finds a backend, and the answers come from
// the VIP again. Where only the way back was forgotten the flow goes on as it was.
func TestVIPPerPacketForgottenFlows(t *testing.T) {
	w := newWires(t, "workload")
	list := []backend{{"10.1.0.6:1", 1}, {"10.1.0.6:2", 1}, {"10.1.0.6:3", 1}}
	w.vip(vip4, list...)
	for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
		c := at(client.addr4, 40000)
		p := packet(proto, c, vip4, "")
		first := w.backendOf(p)
		p.Flags = bpftest.ACK
		answer := func(b uint16) { // comes from the VIP
			t.Helper()
			w.wantTo(client, w.from(server, packet(proto, at(server.addr4, b), c, "")), packet(proto, vip4, c, ""))
		}
		w.do(w.set.Maps["translations"].Delete(flowKey(proto, at(server.addr4, first), c)))
		if got := w.backendOf(p); got != first {
			t.Errorf("protocol %d went to backend %d, had %d", proto, got, first)
		}
		answer(first)
		w.do(w.set.Maps["translations"].Delete(flowKey(proto, c, vip4)))
		w.do(w.set.Maps["translations"].Delete(flowKey(proto, at(server.addr4, first), c)))
		answer(w.backendOf(p))
	}
}

// A packet to a backend that the way there is too narrow for: the task is told of the packet that it sent, to the VIP,
// for it knows of no other.
func TestVIPPerPacketTooBig(t *testing.T) {
	w := newWires(t, "workload")
	const narrow = 1000
	for _, block := range []string{"10.1.1.0", "fd00:1:0:1::"} {
		w.put("blocks", row.BlockKey{VNI: bedVNI, Addr: row.AddrOf(netip.MustParseAddr(block))},
			row.Block{VTEP: row.AddrOf(netip.MustParseAddr("192.0.2.2")), MTU: narrow})
	}
	each(func(v6 bool, proto uint8) {
		c, v := at(client.addr(v6), 40000), vipOf(v6)
		w.vip(v, backend{at(remote.addr(v6), 8080).String(), 1})
		p := packet(proto, c, v, strings.Repeat("x", narrow))
		p.Frag, p.SrcMAC, p.DstMAC = bpftest.DontFragment, client.mac, bpftest.Gateway
		quote := 14 + 20 + 8
		if v6 {
			p.Frag, quote = 0, 14+40+8
		}
		frame := p.Bytes()
		r := w.run("from_workload", frame, bpftest.Meta{Ifindex: client.link})
		if r.Action != bpftest.Redirect || r.Reason != row.ReasonAnsweredTooBig {
			t.Fatalf("%s, %s, want redirect, answered_too_big", r.Action, r.Reason)
		}
		if diff := cmp.Diff(r.Out[quote:], frame[14:14+len(r.Out)-quote]); diff != "" {
			t.Errorf("IPv6 %t, protocol %d: quoted (-got +sent):\n%s", v6, proto, diff)
		}
	})
}
