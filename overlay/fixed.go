// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"fmt"
	"net/netip"
)

// BlockOf returns the block that an address of the network lies in, whoever has it.
func (n Network) BlockOf(addr netip.Addr) netip.Prefix {
	return netip.PrefixFrom(addr, n.BlockBits(addr)).Masked()
}

// CheckFixed refuses addresses that no task of the network can have on any node.
func (n Network) CheckFixed(addrs []netip.Addr) error {
	for _, addr := range addrs {
		subnet := n.Subnet6
		if addr.Is4() {
			subnet = n.Subnet4
		}
		if !subnet.IsValid() || !subnet.Contains(addr) {
			return fmt.Errorf("%w fixed address %s: it is not part of network %s (%s)", ErrInvalid, addr, n.Name, n.Form())
		}
		block := n.BlockOf(addr)
		if addr == block.Addr() || addr.Is4() && !block.Contains(addr.Next()) {
			return fmt.Errorf("%w fixed address %s: tasks get neither the first address of a block (%s) nor the last of an IPv4 one",
				ErrInvalid, addr, block)
		}
	}
	return nil
}

func (p *problems) fixed(addrs []netip.Addr) {
	for i, a := range addrs {
		switch {
		case !a.IsValid() || a.Is4In6() || a.Zone() != "":
			p.addf("fixed address %s: an IPv4 or IPv6 address without zone is allowed", a)
		case i > 0 && a.Is4() == addrs[i-1].Is4():
			p.addf("fixed addresses %s and %s: one of a family is allowed", addrs[i-1], a)
		}
	}
}
