// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"maps"
	"net/netip"

	"weft/bpf/row"
	"weft/discovery"
)

// Some VIPs are seen where they are not of: by a row there that is the same, so that its id leads to the same backends,
// and to what is remembered of those. The VIPs that are the same but for the network are a family.
//
//	           the nodes' own    networks that have     networks that
//	           sockets           one of the family      have none
//	           row.VNINodes
//	network    copy of the       its own                -
//	host       lowest that       its own, with those    copy of
//	           is open           of host behind it      that of host

// vniHost is where VIPs of tasks in nodes' own networks have their rows. Nobody looks there: no network has the number,
// for those have 24 bits, and a restart finds it.
const vniHost = 1 << 24

// in returns the key of the family's row in another network.
func in(vni uint32, key row.VIPKey) row.VIPKey {
	key.VNI = vni
	return key
}

// family returns the rows that a row's backends are behind as well, and those whose backends are behind it.
func (c *Compiler) family(key row.VIPKey) (keys []row.VIPKey) {
	add := func(k row.VIPKey) {
		if _, there := c.held[k]; there || len(c.at[k]) > 0 {
			keys = append(keys, k)
		}
	}
	if key.VNI != vniHost {
		add(in(vniHost, key))
		return keys
	}
	for vni := range c.vnis {
		if vni != vniHost {
			add(in(vni, key))
		}
	}
	return keys
}

// sharedIDs returns by which ids the backends that a network's row has of host are known.
func (c *Compiler) sharedIDs(key row.VIPKey) map[netip.AddrPort]uint32 {
	if key.VNI == vniHost {
		return nil
	}
	host := c.held[in(vniHost, key)]
	ids := make(map[netip.AddrPort]uint32, len(host.slots))
	for _, b := range host.slots {
		ids[peerOf(b)] = b.ID
	}
	return ids
}

// show makes the copies of a family what they should be, as far as they depend on one row.
func (c *Compiler) show(key row.VIPKey, step *Step) {
	c.copyTo(in(row.VNINodes, key), step)
	if key.VNI != vniHost {
		c.copyTo(key, step)
		return
	}
	for vni := range c.vnis {
		if vni != vniHost {
			c.copyTo(in(vni, key), step)
		}
	}
}

// copyTo makes one row the copy that it should be, if any.
func (c *Compiler) copyTo(key row.VIPKey, step *Step) {
	was, shown := c.copies[key]
	vip, wanted := c.copyOf(key)
	if _, done := step.Want.VIPs[key]; done && wanted {
		return // by another one of the family
	}
	if _, told := step.Have.VIPs[key]; shown && !told {
		step.Have.VIPs[key] = was
	}
	if !wanted {
		delete(c.copies, key)
		return
	}
	c.copies[key], step.Want.VIPs[key] = vip, vip
}

// copyOf returns the row that a row should be a copy of.
func (c *Compiler) copyOf(key row.VIPKey) (vip row.VIP, wanted bool) {
	if key.VNI == row.VNINodes {
		return c.owner(key)
	}
	if _, own := c.held[key]; own || c.vnis[key.VNI] == 0 {
		return vip, false
	}
	host, there := c.held[in(vniHost, key)]
	return host.VIP, there
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

// withHost adds to networks the one that all nodes are.
func withHost(networks map[string]uint32) map[string]uint32 {
	all := make(map[string]uint32, len(networks)+1)
	maps.Copy(all, networks)
	all[discovery.HostNetwork] = vniHost
	return all
}
