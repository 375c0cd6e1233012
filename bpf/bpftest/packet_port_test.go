// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"encoding/binary"
	"testing"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// TestSecondPort has frames taken from both ports, and sent to the second one where the block says so.
func TestSecondPort(t *testing.T) {
	anyKernel(t)
	const second = 4790
	two := change{
		config: func(c *bpf.Config) { c.TunnelPort2, c.Tunnel2 = second, 1 },
		tables: func(t *bpftest.Tables) {
			for key, b := range t.Blocks {
				if b.VTEP == row.AddrOf(otherNode) {
					b.Flags |= row.BlockSecondPort
					t.Blocks[key] = b
				}
			}
		},
	}
	out := newBench(t, "workload", two)
	in := newBench(t, "tunnel", two)
	one := newBench(t, "tunnel", change{})
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			got := out.expect(t, "from_workload", tcp(a.web, a.remote).Bytes(), bpftest.Meta{}, row.ReasonEncapsulated)
			if port := binary.BigEndian.Uint16(got[36:]); port != second {
				t.Errorf("sent to port %d, want %d", port, second)
			}
			own := with(udp(a.web, a.world), func(p *bpftest.Packet) { p.DPort = second })
			out.expect(t, "from_workload", own.Bytes(), bpftest.Meta{}, row.ReasonSpoofedTunnel)
			for _, port := range []uint16{4789, second} {
				u := outer(web)
				u.Outer.DPort = port
				in.expect(t, "from_underlay", u.Wrap(tcp(a.remote, a.web).Bytes()), bpftest.Meta{}, in.opened(a, row.ReasonDelivered))
			}
			u := outer(web)
			u.Outer.DPort = second
			one.expect(t, "from_underlay", u.Wrap(tcp(a.remote, a.web).Bytes()), bpftest.Meta{}, row.ReasonNotOurs)
		})
	}
	// Without a second port the flag says nothing.
	first := newBench(t, "workload", change{tables: two.tables})
	got := first.expect(t, "from_workload", tcp(v4.web, v4.remote).Bytes(), bpftest.Meta{}, row.ReasonEncapsulated)
	if port := binary.BigEndian.Uint16(got[36:]); port != 4789 {
		t.Errorf("sent to port %d, want the only one", port)
	}
	t.Run("slow", func(t *testing.T) {
		slow := newBench(t, "workload", change{tables: two.tables, config: func(c *bpf.Config) { two.config(c); c.SlowEncap, c.Tunnel = true, 0 }})
		slow.Device = true // the second one
		slow.expect(t, "from_workload", tcp(v4.web, v4.remote).Bytes(), bpftest.Meta{}, row.ReasonEncapsulated)
	})
}
