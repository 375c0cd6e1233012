// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// The same world over an underlay of IPv6.
var (
	node6      = addr("2001:db8:a::1")
	otherNode6 = addr("2001:db8:a::2")
	noNode6    = addr("2001:db8:a::9")
)

func newBench6(t *testing.T, object string, more func(*bpf.Config)) *bench {
	t.Helper()
	return newBench(t, object, change{
		config: func(c *bpf.Config) {
			c.NodeAddr, c.Neighbours = node6, 64
			if more != nil {
				more(c)
			}
		},
		tables: func(t *bpftest.Tables) {
			t.VTEPs = map[row.Addr]row.VTEP{row.AddrOf(otherNode6): {}}
			for key, b := range t.Blocks {
				b.VTEP = row.AddrOf(otherNode6)
				if b.Flags&row.BlockLocal != 0 {
					b.VTEP = row.AddrOf(node6)
				}
				t.Blocks[key] = b
			}
		},
	})
}

func outer6(identity uint16) bpftest.Tunnel {
	u := outer(identity)
	u.Outer.Src, u.Outer.Dst = otherNode6, node6
	return u
}

// What goes out has 70 bytes more, byte for byte but for MACs and the source port.
func TestEncapsulateInIPv6(t *testing.T) {
	b := newBench6(t, "workload", nil)
	slow := newBench6(t, "workload", func(c *bpf.Config) { c.SlowEncap = true })
	other := newBench(t, "workload", change{config: func(c *bpf.Config) { c.NodeAddr = node6 }})
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			for _, tos := range []uint8{0, 3, 0xb8 | 2} {
				frame := with(tcp(a.web, a.remote), func(p *bpftest.Packet) { p.TOS = tos }).Bytes()
				got := b.expect(t, "from_workload", frame, bpftest.Meta{}, row.ReasonEncapsulated)
				if len(got) != len(frame)+70 {
					t.Fatalf("got %d bytes of %d, want 70 more", len(got), len(frame))
				}
				inner := bytes.Clone(frame)
				last := a.remote.AsSlice()
				copy(inner, append([]byte{0x0a, 0x58}, last[len(last)-4:]...))
				copy(inner[6:], bpftest.Gateway[:])
				want := bpftest.Tunnel{VNI: netA, Policy: web, Outer: bpftest.Packet{
					DstMAC: bpftest.MAC(got[:6]), SrcMAC: bpftest.MAC(got[6:12]), Src: node6, Dst: otherNode6,
					SPort: binary.BigEndian.Uint16(got[54:]), TOS: tos & 3, NoSum: true,
				}}.Wrap(inner)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("encapsulated (-want +got):\n%s", diff)
				}
			}
			frame := tcp(a.web, a.remote).Bytes()
			slow.expect(t, "from_workload", frame, bpftest.Meta{}, row.ReasonEncapsulated)
			// The other node has an address of IPv4 alone.
			if r, err := other.Run("from_workload", frame, bpftest.Meta{}); err != nil || r.Reason != row.ReasonEncapFailed {
				t.Errorf("to a node of the other family: %s, %v", r.Reason, err)
			}
		})
	}
}

func TestFromUnderlayOfIPv6(t *testing.T) {
	b := newBench6(t, "tunnel", nil)
	inner := tcp(v6.remote, v6.web).Bytes()
	for _, r := range []struct {
		name   string
		change func(*bpftest.Tunnel)
		bytes  func([]byte) []byte
		want   row.Reason
	}{
		{name: "valid", want: row.ReasonDelivered},
		{name: "from no node", change: func(u *bpftest.Tunnel) { u.Outer.Src = noNode6 }, want: row.ReasonUnknownVTEP},
		{name: "from this node", change: func(u *bpftest.Tunnel) { u.Outer.Src = node6 }, want: row.ReasonUnknownVTEP},
		{name: "from an IPv4 address in IPv6", change: func(u *bpftest.Tunnel) { u.Outer.Src = addr("::ffff:192.0.2.2") }, want: row.ReasonNotOurs},
		{name: "to another node", change: func(u *bpftest.Tunnel) { u.Outer.Dst = noNode6 }, want: row.ReasonNotOurs},
		{name: "to another port", change: func(u *bpftest.Tunnel) { u.Outer.DPort = 4790 }, want: row.ReasonNotOurs},
		{name: "to another MAC", change: func(u *bpftest.Tunnel) { u.Outer.DstMAC = bpftest.MAC{2, 1} }, want: row.ReasonNotOurs},
		{name: "over tcp", bytes: set(20, bpftest.TCP), want: row.ReasonNotOurs},
		{name: "over IPv4", change: func(u *bpftest.Tunnel) { u.Outer.Src, u.Outer.Dst = otherNode, node }, want: row.ReasonNotOurs},
		{name: "fragment", change: func(u *bpftest.Tunnel) { u.Outer.Frag = bpftest.MoreFragments }, want: row.ReasonNotOurs},
		{name: "extension", change: func(u *bpftest.Tunnel) {
			u.Outer.Extensions = []bpftest.Extension{bpftest.PadExtension(bpftest.DstOpts, 8)}
		}, want: row.ReasonNotOurs},
		{name: "checksum", change: func(u *bpftest.Tunnel) { u.Outer.NoSum = false }, want: row.ReasonSlowPath},
		{name: "no network", change: func(u *bpftest.Tunnel) { u.Flags = 0x80 }, want: row.ReasonBadTunnel},
		{name: "no policy", change: func(u *bpftest.Tunnel) { u.Flags = 0x08 }, want: row.ReasonNoCommonGroup},
		{name: "policy of its network alone", change: func(u *bpftest.Tunnel) { u.VNI = netB }, want: row.ReasonNoEndpoint},
		{name: "tunnel header cut", bytes: func(f []byte) []byte { return f[:69] }, want: row.ReasonMalformed},
	} {
		t.Run(r.name, func(t *testing.T) {
			u := outer6(web)
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
	for name, a := range families {
		t.Run(name, func(t *testing.T) { testInsideIPv6(t, b, a) })
	}
	slow := newBench6(t, "tunnel", func(c *bpf.Config) { c.SlowDecap = true })
	slow.expect(t, "from_underlay", outer6(web).Wrap(inner), bpftest.Meta{}, row.ReasonSlowPath)
}

// testInsideIPv6 wants frames of a family opened as they are, and with a mark of the outer header.
func testInsideIPv6(t *testing.T, b *bench, a addrs) {
	t.Helper()
	old := b.OldDecap && a.web.Is4()
	want := row.ReasonDelivered
	if old {
		want = row.ReasonSlowPath
	}
	frame := tcp(a.remote, a.web).Bytes()
	got := b.expect(t, "from_underlay", outer6(web).Wrap(frame), bpftest.Meta{}, want)
	if !old {
		wantDelivered(t, got, frame)
		u := outer6(web)
		u.Outer.TOS = 3
		marked := func(tos uint8) []byte {
			return with(tcp(a.remote, a.web), func(p *bpftest.Packet) { p.TOS = tos }).Bytes()
		}
		got = b.expect(t, "from_underlay", u.Wrap(marked(2)), bpftest.Meta{}, row.ReasonDelivered)
		wantDelivered(t, got, marked(3))
	}
	b.expect(t, "from_underlay", outer6(stranger).Wrap(frame), bpftest.Meta{}, row.ReasonNoCommonGroup)
	b.truncate(t, "from_underlay", outer6(web).Wrap(frame), bpftest.Meta{})
}
