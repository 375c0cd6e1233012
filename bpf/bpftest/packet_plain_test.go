// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// ofPlain is what the kernel's device took off a frame of the plain node, which carries no identity.
func ofPlain() bpftest.Meta {
	return bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: plainNode, VNI: netA}}
}

// fromPlain returns a packet as the plain node's device sends it.
func fromPlain(src, dst netip.Addr) bpftest.Packet {
	return with(tcp(src, dst), func(p *bpftest.Packet) { p.SrcMAC, p.DstMAC = plainMAC, ownMAC })
}

func TestFromPlainNode(t *testing.T) {
	b := newBench(t, "tunnel", change{})
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			p := fromPlain(a.plain, a.web)
			for _, meta := range []bpftest.Meta{ofPlain(), {Tunnel: &bpftest.TunnelMeta{VTEP: plainNode, VNI: netA, Identity: web}}} {
				got := b.expect(t, "from_tunnel", p.Bytes(), meta, row.ReasonDelivered)
				wantDelivered(t, got, p.Bytes())
			}
			port := func(n uint16) bpftest.Packet { return with(p, func(p *bpftest.Packet) { p.DPort = n }) }
			from := func(src netip.Addr) bpftest.Packet { return with(p, func(p *bpftest.Packet) { p.Src = src }) }
			other := ofPlain()
			other.Tunnel.VNI = netB
			b.table(t, "from_tunnel", []packetRow{
				{name: "no rule", packet: port(22), meta: ofPlain(), want: row.ReasonNoCommonGroup},
				{name: "of another network", packet: p, meta: other, want: row.ReasonWrongNetwork},
				{name: "from another node's block", packet: from(a.remote), meta: ofPlain(), want: row.ReasonSpoofedBlock},
				{name: "from this node's block", packet: from(a.peer), meta: ofPlain(), want: row.ReasonSpoofedBlock},
				{name: "from no block", packet: from(a.unheld), meta: ofPlain(), want: row.ReasonSpoofedBlock},
				{name: "from the world", packet: from(a.world), meta: ofPlain(), want: row.ReasonSpoofedBlock},
				{name: "to nobody", packet: fromPlain(a.plain, a.none), meta: ofPlain(), want: row.ReasonNoEndpoint},
				{name: "to all", packet: fromPlain(a.plain, a.multicast), meta: ofPlain(), want: row.ReasonChatter},
				{name: "another type", packet: p, change: set(12, 0x88, 0xcc), meta: ofPlain(), want: row.ReasonNotIP},
				{name: "cut", packet: p, change: cut(1), meta: ofPlain(), want: row.ReasonMalformed},
			})
			// The underlay's program leaves all of it to the kernel's device.
			u := outer(web)
			u.Outer.Src = plainNode
			frame := u.Wrap(p.Bytes())
			if got := b.expect(t, "from_underlay", frame, bpftest.Meta{}, row.ReasonSlowPath); !bytes.Equal(got, frame) {
				t.Error("a frame of the plain node was changed")
			}
		})
	}
	t.Run("arp", func(t *testing.T) { testPlainARP(t, b) })
	t.Run("neighbour", func(t *testing.T) { testPlainNeighbour(t, b) })
}

func testPlainARP(t *testing.T, b *bench) {
	t.Helper()
	request := bpftest.ARPPacket{
		DstMAC: bpftest.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, SrcMAC: plainMAC, Operation: 1,
		SenderMAC: plainMAC, SenderAddr: v4.plain, TargetAddr: v4.web,
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
		{"no task asked", change(func(a *bpftest.ARPPacket) { a.TargetAddr = v4.none }), row.ReasonChatter},
		{"another node's task asked", change(func(a *bpftest.ARPPacket) { a.TargetAddr = v4.remote }), row.ReasonChatter},
		{"answer", change(func(a *bpftest.ARPPacket) { a.Operation = 2 }), row.ReasonChatter},
		{"probe", change(func(a *bpftest.ARPPacket) { a.SenderAddr = netip.IPv4Unspecified() }), row.ReasonChatter},
		{"from another node's address", change(func(a *bpftest.ARPPacket) { a.SenderAddr = v4.remote }), row.ReasonSpoofedBlock},
		{"another hardware", set(14, 0, 6)(request.Bytes()), row.ReasonMalformed},
	} {
		t.Run(r.name, func(t *testing.T) { b.expect(t, "from_tunnel", r.frame, ofPlain(), r.want) })
	}
	got := b.expect(t, "from_tunnel", request.Bytes(), ofPlain(), row.ReasonAnsweredARP)
	want := bpftest.ARPPacket{
		DstMAC: plainMAC, SrcMAC: ownMAC, Operation: 2, SenderMAC: ownMAC, SenderAddr: v4.web, TargetMAC: plainMAC, TargetAddr: v4.plain,
	}.Bytes()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

func testPlainNeighbour(t *testing.T, b *bench) {
	t.Helper()
	solicit := bpftest.Neighbour(135, v6.plain, addr("ff02::1:ff01:a"), v6.web, plainMAC)
	solicit.SrcMAC = plainMAC
	target := func(p bpftest.Packet, a netip.Addr) bpftest.Packet {
		b := a.As16()
		p.Payload = append(b[:], p.Payload[16:]...)
		return p
	}
	from := func(src netip.Addr) bpftest.Packet { return with(solicit, func(p *bpftest.Packet) { p.Src = src }) }
	b.table(t, "from_tunnel", []packetRow{
		{name: "by its link-local address", packet: from(addr("fe80::5")), meta: ofPlain(), want: row.ReasonAnsweredND},
		{name: "no task asked", packet: target(solicit, v6.none), meta: ofPlain(), want: row.ReasonChatter},
		{name: "duplicate address detection", packet: from(netip.IPv6Unspecified()), meta: ofPlain(), want: row.ReasonChatter},
		{name: "from another node's address", packet: from(v6.remote), meta: ofPlain(), want: row.ReasonSpoofedBlock},
		{name: "from afar", packet: with(solicit, func(p *bpftest.Packet) { p.TTL = 254 }), meta: ofPlain(), want: row.ReasonMalformed},
		{name: "router solicitation", packet: with(solicit, func(p *bpftest.Packet) { p.ICMPType = 133 }), meta: ofPlain(), want: row.ReasonChatter},
	})
	got := b.expect(t, "from_tunnel", solicit.Bytes(), ofPlain(), row.ReasonAnsweredND)
	answer := bpftest.Neighbour(136, v6.web, v6.plain, v6.web, ownMAC)
	answer.SrcMAC, answer.DstMAC, answer.ICMPRest = ownMAC, plainMAC, [4]byte{0xe0}
	if diff := cmp.Diff(answer.Bytes(), got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// TestToPlainNode wants the verdict at the sender, and the frame with both devices' MACs for the kernel's device.
func TestToPlainNode(t *testing.T) {
	b := newBench(t, "workload", change{})
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			p := with(tcp(a.web, a.plain), func(p *bpftest.Packet) { p.DPort = 5432 })
			got := b.expect(t, "from_workload", p.Bytes(), bpftest.Meta{}, row.ReasonEncapsulated)
			want := with(p, func(p *bpftest.Packet) { p.SrcMAC, p.DstMAC = ownMAC, plainMAC }).Bytes()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
			large := with(p, func(p *bpftest.Packet) { p.Payload = make([]byte, 1450) })
			b.table(t, "from_workload", []packetRow{
				{name: "no rule", packet: with(p, func(p *bpftest.Packet) { p.DPort = 22 }), want: row.ReasonNoCommonGroup},
				{name: "audited", packet: udp(a.web, a.plain), want: row.ReasonAudited},
				{name: "too large", packet: large, want: row.ReasonAnsweredTooBig},
				{name: "too large and refused", packet: with(large, func(p *bpftest.Packet) { p.DPort = 22 }), want: row.ReasonNoCommonGroup},
				{name: "segments", packet: with(p, func(p *bpftest.Packet) { p.Payload = make([]byte, 2800) }), meta: bpftest.Meta{GSOSize: 1300}, want: row.ReasonEncapsulated},
			})
		})
	}
	gone := newBench(t, "workload", change{tables: func(t *bpftest.Tables) { delete(t.VTEPs, row.AddrOf(plainNode)) }})
	t.Run("gone", func(t *testing.T) {
		gone.expect(t, "from_workload", tcp(v4.web, v4.plain).Bytes(), bpftest.Meta{}, row.ReasonNoBlock)
	})
}

// TestPlainNodeIsAnswered wants answers of a task let back to the plain node that opened, and nothing else of it.
func TestPlainNodeIsAnswered(t *testing.T) {
	in, out := newBench(t, "tunnel", change{}), newBench(t, "workload", change{})
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			answer := with(tcp(a.web, a.plain), func(p *bpftest.Packet) { p.SPort, p.DPort, p.Flags = 80, 40000, bpftest.SYN|bpftest.ACK })
			out.expect(t, "from_workload", answer.Bytes(), bpftest.Meta{}, row.ReasonNoCommonGroup)
			open := with(fromPlain(a.plain, a.web), func(p *bpftest.Packet) { p.Flags = bpftest.SYN })
			in.expect(t, "from_tunnel", open.Bytes(), ofPlain(), row.ReasonDelivered)
			opened, err := bpftest.Rows[row.FlowKey, row.Flow](in.Set, "attempts")
			if err != nil || len(opened) != 1 {
				t.Fatalf("remembered: %v %v, want what the plain node opened", opened, err)
			}
			for key, f := range opened { // the benches are one node
				if err := out.Maps["attempts"].Put(key, f); err != nil {
					t.Fatal(err)
				}
				out.Attempts[key] = row.Flow{}
			}
			out.expect(t, "from_workload", answer.Bytes(), bpftest.Meta{}, row.ReasonEncapsulated)
			in.reset(t)
			out.reset(t)
		})
	}
}
