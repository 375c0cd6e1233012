// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"weft/bpf"
	"weft/bpf/bpftest"
)

// Constants cut branches out of the programs, and the kernel translates what is left: every cut has to
// load. (Linux's translator for x86 gives up on some lengths of code: "bpf_jit: fatal error".)
func TestEveryConfigLoads(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("loading programs needs root")
	}
	specs, err := bpf.Specs()
	if err != nil {
		t.Fatal(err)
	}
	node, node6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, events := range []uint32{0, 100} {
		for _, slow := range []bool{false, true} {
			for _, c := range []bpf.Config{
				{NodeAddr: node, Underlay: 1, TunnelPort: 4789},
				{NodeAddr: node6, Underlay: 1, TunnelPort: 4789},
				{},
				{NodeAddr: node},
				{NodeAddr: node, Tunnel: 1, Neighbours: 24},
				{NodeAddr: node6, Tunnel: 1, Neighbours: 64},
			} {
				if testing.Short() && (c.TunnelPort == 0 || slow != (events == 0)) {
					continue // a guest takes ten seconds for each; these are what nodes have
				}
				c.EventsPerSecond, c.SlowEncap, c.SlowDecap = events, slow, slow
				t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
					t.Parallel()
					for name := range specs {
						spec, err := bpftest.Spec(name, c)
						if err != nil {
							t.Fatal(err)
						}
						set, err := bpftest.Load(spec)
						if err != nil {
							t.Errorf("%s: %v", name, err)
							continue
						}
						set.Close()
					}
				})
			}
		}
	}
}
