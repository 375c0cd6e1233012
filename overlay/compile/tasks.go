// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/overlay"
)

// MAC returns the link address of a task: 0a:58 and its IPv4 address, or the last four bytes of its
// IPv6 address where it has no other.
func MAC(addr4, addr6 netip.Addr) [6]byte {
	addr := addr4
	if !addr.IsValid() {
		addr = addr6
	}
	b := addr.As16()
	return [6]byte{0x0a, 0x58, b[12], b[13], b[14], b[15]}
}

func tasks(f Facts, networks map[string]overlay.Network, directed map[string]bool, prefixed map[identityOf]bool) (
	workloads map[uint32]row.Workload, endpoints map[row.EndpointKey]row.Endpoint, spaces map[uint64]row.Space,
) {
	workloads = make(map[uint32]row.Workload, len(f.Tasks))
	endpoints = make(map[row.EndpointKey]row.Endpoint, 2*len(f.Tasks))
	spaces = make(map[uint64]row.Space, len(f.Tasks))
	// Of several attachments of one namespace that of the first interface by name (eth0, then eth1) gives
	// it its VIPs, as it does the default route.
	sorted := slices.SortedFunc(slices.Values(f.Tasks), func(a, b Task) int {
		return cmp.Or(cmp.Compare(len(a.Interface), len(b.Interface)), cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.ID, b.ID))
	})
	for _, t := range sorted {
		n, known := networks[t.Network]
		if !known || t.VNI != n.VNI || t.Ifindex == 0 {
			continue
		}
		w := row.Workload{
			VNI: uint32(n.VNI), Identity: uint16(t.Identity), MAC: MAC(t.Addr4, t.Addr6),
			MTU:   uint16(min(max(t.MTU, 0), math.MaxUint16)),
			Addr4: row.AddrOf(t.Addr4), Addr6: row.AddrOf(t.Addr6),
			Block4: blockBits(n.Block4), Block6: blockBits(n.Block6),
		}
		if directed[n.Name] {
			w.Flags |= row.WorkloadDirected
		}
		workloads[t.Ifindex] = w
		e := row.Endpoint{Ifindex: t.Ifindex, Identity: uint16(t.Identity), MAC: w.MAC}
		if prefixed[identityOf{n.VNI, t.Identity}] {
			e.Flags |= row.EndpointPrefixed
		}
		for _, a := range t.Addrs() {
			endpoints[row.EndpointKey{VNI: uint32(n.VNI), Addr: row.AddrOf(a)}] = e
		}
		if _, taken := spaces[t.Cookie]; t.Cookie != 0 && !taken {
			spaces[t.Cookie] = row.Space{VNI: uint32(n.VNI), Identity: uint16(t.Identity), Addr4: w.Addr4, Addr6: w.Addr6}
		}
	}
	return workloads, endpoints, spaces
}

func blockBits(n int) uint8 {
	return uint8(min(max(n, 0), 128))
}

// identityOf tells identities of different networks apart.
type identityOf struct {
	vni      overlay.VNI
	identity overlay.Identity
}

// directedNetworks returns the networks where one side may open what the other may not: by a rule, or
// towards a public task.
func directedNetworks(f Facts) map[string]bool {
	directed := make(map[string]bool)
	for _, r := range f.Rules {
		directed[r.Network] = true
	}
	for _, s := range f.Sets {
		if slices.Contains(s.Groups, overlay.GroupPublic) {
			directed[s.Network] = true
		}
	}
	for _, t := range f.Tasks {
		if slices.Contains(t.Groups, overlay.GroupPublic) {
			directed[t.Network] = true
		}
	}
	for _, p := range f.Plain {
		if slices.Contains(p.Groups, overlay.GroupPublic) {
			directed[p.Network] = true
		}
	}
	return directed
}
