// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// wrapped returns the frame as otherNode sends it, from an identity of netA.
func wrapped(identity uint16, frame []byte) []byte {
	return outer(identity).Wrap(frame)
}

func outer(identity uint16) bpftest.Tunnel {
	return bpftest.Tunnel{VNI: netA, Policy: identity, Outer: bpftest.Packet{
		SrcMAC: bpftest.MAC{2}, Src: otherNode, Dst: node, SPort: 40000, Frag: bpftest.DontFragment, NoSum: true,
	}}
}

func TestFromUnderlay(t *testing.T) {
	b := newBench(t, "tunnel", change{})
	t.Run("outer", func(t *testing.T) { testOuter(t, b) })
	t.Run("marks", func(t *testing.T) { testMarks(t, b) })
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			for _, r := range innerRows(a) {
				t.Run(r.name, func(t *testing.T) {
					b.expect(t, "from_underlay", wrapped(r.identity, r.frame()), r.meta, b.opened(a, r.want))
				})
			}
			inner := tcp(a.remote, a.web).Bytes()
			got := b.expect(t, "from_underlay", wrapped(web, inner), bpftest.Meta{}, b.opened(a, row.ReasonDelivered))
			if !b.OldDecap || a.web.Is4() {
				wantDelivered(t, got, inner)
			}
		})
	}
	slow := newBench(t, "tunnel", change{config: func(c *bpf.Config) { c.SlowDecap = true }})
	t.Run("slow", func(t *testing.T) {
		frame := wrapped(web, tcp(v4.remote, v4.web).Bytes())
		got := slow.expect(t, "from_underlay", frame, bpftest.Meta{}, row.ReasonSlowPath)
		if diff := cmp.Diff(frame, got); diff != "" {
			t.Errorf("left to the device (-want +got):\n%s", diff)
		}
	})
	b.sawEvery(t, append(receiveReasons(), row.ReasonNotOurs, row.ReasonSlowPath, row.ReasonBadTunnel))
}

// TestProbesAreAnswered wants the beginning of a frame of no network back, to where it came from.
func TestProbesAreAnswered(t *testing.T) {
	for name, w := range map[string]struct {
		b  *bench
		to bpftest.Tunnel
	}{
		"ipv4": {newBench(t, "tunnel", change{}), outer(0)},
		"ipv6": {newBench6(t, "tunnel", nil), outer6(0)},
	} {
		t.Run(name, func(t *testing.T) {
			w.to.VNI, w.to.Flags = 0, 0x08
			data := bytes.Repeat([]byte("who asks"), 100)
			got := w.b.expect(t, "from_underlay", w.to.Wrap(data), bpftest.Meta{}, row.ReasonAnsweredProbe)
			back := w.to
			o := &back.Outer
			o.Src, o.Dst, o.SrcMAC, o.DstMAC = o.Dst, o.Src, o.DstMAC, o.SrcMAC
			o.SPort, o.DPort = 4789, o.SPort
			if diff := cmp.Diff(back.Wrap(data[:16]), got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			w.b.expect(t, "from_underlay", w.to.Wrap(data[:16]), bpftest.Meta{}, row.ReasonAnsweredProbe)
			w.b.expect(t, "from_underlay", w.to.Wrap(data[:15]), bpftest.Meta{}, row.ReasonMalformed)
			w.b.expect(t, "from_underlay", w.to.Wrap(data), bpftest.Meta{GSOSize: 100}, row.ReasonMalformed)
			w.to.Outer.Src = noNode
			if w.to.Outer.Dst.Is6() {
				w.to.Outer.Src = noNode6
			}
			w.b.expect(t, "from_underlay", w.to.Wrap(data), bpftest.Meta{}, row.ReasonUnknownVTEP)
		})
	}
}

func TestFromTunnel(t *testing.T) {
	b := newBench(t, "tunnel", change{})
	given := func(identity uint16) bpftest.Meta {
		return bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: otherNode, VNI: netA, Identity: identity}}
	}
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			for _, r := range innerRows(a) {
				t.Run(r.name, func(t *testing.T) {
					if r.meta.GSOSize != 0 {
						return // the device has opened what from_underlay could not
					}
					b.expect(t, "from_tunnel", r.frame(), given(r.identity), r.want)
				})
			}
			inner := tcp(a.remote, a.web).Bytes()
			got := b.expect(t, "from_tunnel", inner, given(web), row.ReasonDelivered)
			wantDelivered(t, got, inner)
			inner = tcp(a.remote, a.own).Bytes()
			got = b.expect(t, "from_tunnel", inner, given(web), row.ReasonToHost)
			wantAt(t, got, inner, nodeLink)
			for _, vtep := range []netip.Addr{noNode, world6} {
				meta := given(web)
				meta.Tunnel.VTEP = vtep
				b.expect(t, "from_tunnel", inner, meta, row.ReasonUnknownVTEP)
			}
		})
	}
	b.sawEvery(t, receiveReasons())
}

// receiveReasons are those of lib/receive.h and of the sender's check.
func receiveReasons() []row.Reason {
	return []row.Reason{
		row.ReasonDelivered, row.ReasonAudited, row.ReasonChatter, row.ReasonMalformed, row.ReasonNotIP,
		row.ReasonNoEndpoint, row.ReasonNoCommonGroup, row.ReasonDenied, row.ReasonUnknownVTEP,
		row.ReasonFragment, row.ReasonMulticast, row.ReasonToHost, row.ReasonSpoofedAddress, row.ReasonNotPublic,
	}
}

// wantDelivered wants the inner frame with MACs of this node's link.
func wantDelivered(t *testing.T, got, inner []byte) {
	t.Helper()
	wantAt(t, got, inner, webLink)
}

func wantAt(t *testing.T, got, inner []byte, link uint32) {
	t.Helper()
	want := bytes.Clone(inner)
	to := mac(link)
	copy(want, to[:])
	copy(want[6:], bpftest.Gateway[:])
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("delivered (-want +got):\n%s", diff)
	}
}

// testOuter changes the outer headers and the tunnel's.
func testOuter(t *testing.T, b *bench) {
	t.Helper()
	inner := tcp(v4.remote, v4.web).Bytes()
	type tunnelRow struct {
		name   string
		change func(*bpftest.Tunnel)
		bytes  func([]byte) []byte
		want   row.Reason
	}
	for _, r := range []tunnelRow{
		{name: "valid", want: row.ReasonDelivered},
		{name: "from no node", change: func(u *bpftest.Tunnel) { u.Outer.Src = noNode }, want: row.ReasonUnknownVTEP},
		{name: "from this node", change: func(u *bpftest.Tunnel) { u.Outer.Src = node }, want: row.ReasonUnknownVTEP},
		{name: "from no node, fragment", change: func(u *bpftest.Tunnel) {
			u.Outer.Src, u.Outer.Frag = noNode, bpftest.MoreFragments
		}, want: row.ReasonUnknownVTEP},
		{name: "to another node", change: func(u *bpftest.Tunnel) { u.Outer.Dst = noNode }, want: row.ReasonNotOurs},
		{name: "to another port", change: func(u *bpftest.Tunnel) { u.Outer.DPort = 4790 }, want: row.ReasonNotOurs},
		{name: "to another MAC", change: func(u *bpftest.Tunnel) { u.Outer.DstMAC = bpftest.MAC{2, 1} }, want: row.ReasonNotOurs},
		{name: "to all", change: func(u *bpftest.Tunnel) {
			u.Outer.DstMAC = bpftest.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		}, want: row.ReasonNotOurs},
		{name: "over tcp", bytes: set(23, bpftest.TCP), want: row.ReasonNotOurs},
		{name: "header of 16 bytes", bytes: set(14, 0x44), want: row.ReasonNotOurs},
		{name: "another type", bytes: set(12, 0x88, 0xcc), want: row.ReasonNotOurs},
		{name: "later fragment", change: func(u *bpftest.Tunnel) { u.Outer.Frag = 1 }, want: row.ReasonNotOurs},
		{name: "first fragment", change: func(u *bpftest.Tunnel) { u.Outer.Frag = bpftest.MoreFragments }, want: row.ReasonSlowPath},
		{name: "options", change: func(u *bpftest.Tunnel) { u.Outer.Options = make([]byte, 8) }, want: row.ReasonSlowPath},
		{name: "checksum", change: func(u *bpftest.Tunnel) { u.Outer.NoSum = false }, want: row.ReasonSlowPath},
		{name: "no network", change: func(u *bpftest.Tunnel) { u.Flags = 0x80 }, want: row.ReasonBadTunnel},
		{name: "another protocol than Ethernet", change: func(u *bpftest.Tunnel) { u.Flags = 0x8c }, want: row.ReasonBadTunnel},
		{name: "no policy", change: func(u *bpftest.Tunnel) { u.Flags = 0x08 }, want: row.ReasonNoCommonGroup},
		{name: "policy of its network alone", change: func(u *bpftest.Tunnel) { u.VNI = netB }, want: row.ReasonNoEndpoint},
		{name: "reserved byte", bytes: set(49, 0xff), want: row.ReasonDelivered},
		{name: "policy bits", bytes: set(43, 0x48), want: row.ReasonDelivered},
		{name: "tunnel header cut", bytes: func(f []byte) []byte { return f[:49] }, want: row.ReasonMalformed},
	} {
		t.Run(r.name, func(t *testing.T) {
			u := outer(web)
			if r.change != nil {
				r.change(&u)
			}
			frame := u.Wrap(inner)
			if r.bytes != nil {
				frame = r.bytes(frame)
			}
			b.expect(t, "from_underlay", frame, bpftest.Meta{}, r.want)
		})
	}
}

// testMarks carries congestion marks of the outer header inwards (RFC 6040, figure 4).
func testMarks(t *testing.T, b *bench) {
	t.Helper()
	for name, a := range families {
		if b.OldDecap && a.web.Is6() {
			continue
		}
		for _, r := range []struct{ inner, outer, want uint8 }{
			{0, 0, 0}, {1, 0, 1}, {1, 1, 1}, {2, 2, 2}, {1, 3, 3}, {2, 3, 3}, {3, 3, 3}, {3, 0, 3}, {0xb8 | 2, 3, 0xb8 | 3},
		} {
			frame := with(tcp(a.remote, a.web), func(p *bpftest.Packet) { p.TOS = r.inner }).Bytes()
			u := outer(web)
			u.Outer.TOS = r.outer
			got := b.expect(t, "from_underlay", u.Wrap(frame), bpftest.Meta{}, row.ReasonDelivered)
			want := with(tcp(a.remote, a.web), func(p *bpftest.Packet) { p.TOS = r.want }).Bytes()
			wantDelivered(t, got, want)
		}
		u := outer(web)
		u.Outer.TOS = 3
		t.Run(name+" without support", func(t *testing.T) {
			b.expect(t, "from_underlay", u.Wrap(tcp(a.remote, a.web).Bytes()), bpftest.Meta{}, row.ReasonBadTunnel)
		})
	}
}

type innerRow struct {
	packetRow
	identity uint16
}

// innerRows change the inner frame, or who sends it.
func innerRows(a addrs) []innerRow {
	p := tcp(a.remote, a.web)
	to := func(dst netip.Addr, proto uint8, port uint16) bpftest.Packet {
		return with(p, func(p *bpftest.Packet) { p.Dst, p.Proto, p.DPort = dst, proto, port })
	}
	node := func(src, dst netip.Addr, port uint16) bpftest.Packet {
		return with(p, func(p *bpftest.Packet) { p.Src, p.Dst, p.DPort = src, dst, port })
	}
	later := func(p *bpftest.Packet) { p.Frag, p.L4 = 100, make([]byte, 64) }
	unspecified := netip.IPv6Unspecified()
	if a.web.Is4() {
		unspecified = netip.IPv4Unspecified()
	}
	rows := []innerRow{
		{packetRow{name: "common group", packet: p, want: row.ReasonDelivered}, web},
		{packetRow{name: "no common group", packet: p, want: row.ReasonNoCommonGroup}, stranger},
		{packetRow{name: "no identity", packet: p, want: row.ReasonNoCommonGroup}, 0},
		{packetRow{name: "port allowed", packet: to(a.db, bpftest.TCP, 5432), want: row.ReasonDelivered}, web},
		{packetRow{name: "port denied", packet: to(a.db, bpftest.TCP, 22), want: row.ReasonDenied}, web},
		{packetRow{name: "protocol audited", packet: to(a.db, bpftest.UDP, 53), want: row.ReasonAudited}, web},
		{packetRow{name: "later fragment", packet: with(to(a.db, bpftest.TCP, 5432), later), want: row.ReasonFragment}, web},
		{packetRow{name: "no task", packet: to(a.none, bpftest.TCP, 80), want: row.ReasonNoEndpoint}, web},
		{packetRow{name: "of another node", packet: to(a.remote, bpftest.TCP, 80), want: row.ReasonNoEndpoint}, web},
		{packetRow{name: "the node itself", packet: to(a.own, bpftest.TCP, 80), want: row.ReasonToHost}, stranger},
		{packetRow{name: "the node itself, joined", packet: to(a.own, bpftest.UDP, 80), meta: bpftest.Meta{GSOSize: 2}, want: row.ReasonSlowPath}, web},
		{packetRow{name: "another node's processes", packet: to(a.other, bpftest.TCP, 80), want: row.ReasonNoEndpoint}, web},
		{packetRow{name: "the node itself, from the world", packet: node(a.world, a.own, 80), want: row.ReasonSpoofedAddress}, web},
		{packetRow{name: "the node itself, from another network", packet: node(a.foreign, a.own, 80), want: row.ReasonSpoofedAddress}, web},
		{packetRow{name: "the node itself, as another node", packet: node(a.other, a.own, 80), want: row.ReasonSpoofedAddress}, row.IdentityOtherNode},
		{packetRow{name: "a node to public", packet: node(a.other, a.open, 80), want: row.ReasonDelivered}, row.IdentityOtherNode},
		{packetRow{name: "a node to a group", packet: node(a.other, a.web, 80), want: row.ReasonNotPublic}, row.IdentityOtherNode},
		{packetRow{name: "a node by its rule", packet: node(a.other, a.db, 5432), want: row.ReasonDelivered}, row.IdentityOtherNode},
		{packetRow{name: "a node beside its rule", packet: node(a.other, a.db, 80), want: row.ReasonNotPublic}, row.IdentityOtherNode},
		{packetRow{name: "a node as a task", packet: node(a.remote, a.open, 80), want: row.ReasonSpoofedAddress}, row.IdentityOtherNode},
		{packetRow{name: "multicast", packet: to(a.multicast, bpftest.UDP, 5353), want: row.ReasonMulticast}, web},
		{packetRow{name: "unspecified", packet: to(unspecified, bpftest.TCP, 80), want: row.ReasonMalformed}, web},
		{packetRow{name: "from multicast", packet: with(p, func(p *bpftest.Packet) { p.Src = a.multicast }), want: row.ReasonMalformed}, web},
		{packetRow{name: "from nobody", packet: with(p, func(p *bpftest.Packet) { p.Src = unspecified }), want: row.ReasonMalformed}, web},
		{packetRow{name: "another type", packet: p, change: set(12, 0x88, 0xcc), want: row.ReasonNotIP}, web},
		{packetRow{name: "arp", packet: p, change: func([]byte) []byte { return bpftest.ARPPacket{}.Bytes() }, want: row.ReasonNotIP}, web},
		{packetRow{name: "cut", packet: p, change: cut(1), want: row.ReasonMalformed}, web},
	}
	if a.web.Is4() {
		rows = append(rows, innerRow{packetRow{name: "igmp", packet: to(a.web, bpftest.IGMP, 0), want: row.ReasonChatter}, web})
	} else {
		advert := bpftest.Neighbour(136, a.remote, a.web, addr("fe80::1"), mac(9))
		rows = append(rows, innerRow{packetRow{name: "neighbour advertisement", packet: advert, want: row.ReasonChatter}, web})
	}
	return append(rows, innerRow{packetRow{
		name: "joined datagrams", packet: udp(a.remote, a.web), meta: bpftest.Meta{GSOSize: 2}, want: row.ReasonSlowPath,
	}, web})
}
