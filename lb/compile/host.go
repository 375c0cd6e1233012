// SPDX-License-Identifier: Apache-2.0

package compile

import "weft/bpf/row"

// The nodes' own processes are in no network and see the VIPs of all. They find a VIP of a network under row.VNINodes,
// by a row that is the same: its id leads to the same backends, and what is remembered of those.

// showHosts makes the row of the nodes' own sockets that of the network that owns the address, port and protocol.
func (c *Compiler) showHosts(key row.VIPKey, step *Step) {
	hosts := key
	hosts.VNI = row.VNINodes
	if _, done := step.Want.VIPs[hosts]; done {
		return // another network has the same VIP
	}
	if was, shown := c.hosts[hosts]; shown {
		step.Have.VIPs[hosts] = was
	}
	vip, owned := c.owner(key)
	if !owned {
		delete(c.hosts, hosts)
		return
	}
	c.hosts[hosts], step.Want.VIPs[hosts] = vip, vip
}

// owner returns the VIP of the lowest VNI among networks that have the same one; those that take connections are
// before the others.
func (c *Compiler) owner(key row.VIPKey) (found row.VIP, owned bool) {
	var lowest uint32
	for vni := range c.vnis {
		key.VNI = vni
		h, known := c.held[key]
		if !known {
			continue
		}
		open := h.Backends > h.Draining
		better := open && found.Backends <= found.Draining
		if !owned || better || vni < lowest && open == (found.Backends > found.Draining) {
			found, lowest, owned = h.VIP, vni, true
		}
	}
	return found, owned
}
