// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"weft/discovery"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
	"weft/overlay/ipam"
)

// returnAfter is how long a block must have been empty before it goes back to the masters: longer than a
// task needs that is started anew.
const returnAfter = 10 * time.Minute

// lack is what an attachment waits for: a block of the subnet or, where it is valid, the one that holds
// the fixed address.
type lack struct {
	subnet netip.Prefix
	fixed  netip.Addr
}

// reserve gives an attachment addresses, waiting for a block if need be.
func (e *Engine) reserve(
	ctx context.Context, n overlay.Network, a overlay.Attachment, identity overlay.Identity,
) (overlay.Endpoint, error) {
	for {
		changed := e.o.Rows.Changed(discovery.KindBlock, discovery.KindNetwork, discovery.KindRefusal)
		now, ok := e.facts.Network(n.Name)
		if !ok {
			return overlay.Endpoint{}, fmt.Errorf("network %q: %w: it was removed meanwhile", n.Name, overlay.ErrNotFound)
		}
		ep, lacks, err := e.pick(now, a, identity)
		if err != nil || !lacks.subnet.IsValid() {
			return ep, err
		}
		if err := e.await(ctx, now, a.ID, lacks, changed); err != nil {
			return overlay.Endpoint{}, err
		}
	}
}

// await asks the masters for what an attachment lacks and returns when something has changed.
func (e *Engine) await(ctx context.Context, n overlay.Network, id string, lacks lack, changed <-chan struct{}) error {
	w := wish{network: n.Name, address: !lacks.fixed.IsValid(), fixed: lacks.fixed}
	var hopeless error
	if w.address {
		hopeless = errors.Join(e.exhausted(n, lacks.subnet), e.refused(blocksKey(n.Name), overlay.ErrExhausted))
	} else {
		hopeless = e.refused(fixedKey(n.Name, lacks.fixed), overlay.ErrConflict)
	}
	if hopeless != nil {
		return hopeless
	}
	if err := e.wish(id, w); err != nil {
		return err
	}
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
	}
	if w.address {
		return fmt.Errorf("this node has no free address in %s, and no master answered with a block: %w", lacks.subnet, ctx.Err())
	}
	return fmt.Errorf("this node does not have block %s of %s, and no master answered with it: %w",
		n.BlockOf(lacks.fixed), lacks.fixed, ctx.Err())
}

// pick makes an entry with an address of each of the network's families, or says what is lacking.
func (e *Engine) pick(
	n overlay.Network, a overlay.Attachment, identity overlay.Identity,
) (ep overlay.Endpoint, lacks lack, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.clash(a); err != nil {
		return ep, lacks, err
	}
	ep = overlay.Endpoint{
		Attachment: a, Node: e.o.Node, VNI: n.VNI, Identity: identity, MTU: overlay.TaskMTU(e.o.Underlay.Addr, e.o.Underlay.MTU),
		HostInterface: apply.LinkName(a.ID), Since: time.Now().UTC(),
	}
	used := e.used(n.Name)
	for _, subnet := range n.Subnets() {
		addr, ok := fixedOf(a, subnet)
		switch {
		case ok:
			if ok, err := e.mayHave(n, addr, used); err != nil || !ok {
				return overlay.Endpoint{}, lack{subnet, addr}, err
			}
		default:
			addr, ok = ipam.Lowest(e.ownBlocks(n, subnet), func(a netip.Addr) bool { return used[a] != nil })
			if !ok {
				return overlay.Endpoint{}, lack{subnet: subnet}, nil
			}
		}
		if addr.Is4() {
			ep.Addr4 = addr
		} else {
			ep.Addr6 = addr
		}
	}
	mac := compile.MAC(ep.Addr4, ep.Addr6)
	ep.MAC = net.HardwareAddr(mac[:]).String()
	e.entries[a.ID] = &entry{Endpoint: ep}
	delete(e.pending, a.ID) // in one with the entry: it is not counted twice
	return ep, lack{}, nil
}

// used returns who has which address of a network here. The caller holds e.mu.
func (e *Engine) used(network string) map[netip.Addr]*entry {
	used := make(map[netip.Addr]*entry)
	for _, en := range e.entries {
		if en.Network == network {
			for _, addr := range en.Addrs() {
				used[addr] = en
			}
		}
	}
	return used
}

func fixedOf(a overlay.Attachment, subnet netip.Prefix) (netip.Addr, bool) {
	i := slices.IndexFunc(a.Fixed, func(f netip.Addr) bool { return f.Is4() == subnet.Addr().Is4() })
	if i < 0 {
		return netip.Addr{}, false
	}
	return a.Fixed[i], true
}

// mayHave tells whether a fixed address can be given now; an error tells that waiting is no use. The
// caller holds e.mu.
func (e *Engine) mayHave(n overlay.Network, addr netip.Addr, used map[netip.Addr]*entry) (bool, error) {
	if en := used[addr]; en != nil {
		return false, fmt.Errorf("%w: fixed address %s is task %s's (attachment %s)", overlay.ErrConflict, addr, en.Task, en.ID)
	}
	block := n.BlockOf(addr)
	for _, b := range e.facts.Blocks() {
		switch {
		case b.Network != n.Name || b.Prefix != block:
		case b.Node != e.o.Node:
			return false, fmt.Errorf("%w: fixed address %s lies in block %s of node %s: start the task there, or choose an address of "+
				"this node's blocks or of one that no node has (see `weft network show %s`)", overlay.ErrConflict, addr, block, b.Node, n.Name)
		default:
			return !e.returning[block], nil // one that goes back has to be asked for again
		}
	}
	return false, nil
}

// ownBlocks returns the blocks of a network that this node gives addresses from, in the family of subnet.
// The caller holds e.mu.
func (e *Engine) ownBlocks(n overlay.Network, subnet netip.Prefix) []netip.Prefix {
	var blocks []netip.Prefix
	for _, b := range e.facts.Blocks() {
		if b.Network == n.Name && b.Node == e.o.Node && subnet.Overlaps(b.Prefix) && !e.returning[b.Prefix] {
			blocks = append(blocks, b.Prefix)
		}
	}
	return blocks
}

// exhausted tells when asking the masters for a block is no use: there is none left.
func (e *Engine) exhausted(n overlay.Network, subnet netip.Prefix) error {
	var taken []netip.Prefix
	held := 0
	for _, b := range e.facts.Blocks() {
		if b.Network != n.Name {
			continue
		}
		taken = append(taken, b.Prefix)
		if b.Node == e.o.Node && subnet.Overlaps(b.Prefix) {
			held++
		}
	}
	bits := n.BlockBits(subnet.Addr())
	if _, left := ipam.LowestBlock(subnet, bits, taken); left {
		return nil
	}
	return fmt.Errorf("addresses of %s are %w: every /%d block is held by a node, and the %d held here are full",
		subnet, overlay.ErrExhausted, bits, held)
}

// returnBlocks chooses blocks that go back to the masters: one of a family at a time, the highest first.
// From then on no task gets an address of it, whatever happens, until the masters have taken it.
func (e *Engine) returnBlocks(now time.Time) {
	if !e.facts.Known() {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	mine := make(map[netip.Prefix]bool)
	for _, b := range e.facts.Blocks() {
		if b.Node == e.o.Node {
			mine[b.Prefix] = true
		}
	}
	for _, n := range e.facts.Networks() {
		n = n.Normal()
		for _, subnet := range n.Subnets() {
			e.returnOne(n, subnet, now)
		}
	}
	for p := range e.returning {
		if !mine[p] {
			delete(e.returning, p)
		}
	}
	for p := range e.empty {
		if !mine[p] {
			delete(e.empty, p)
		}
	}
}

// returnOne chooses one block of a family, if there is one. The caller holds e.mu.
func (e *Engine) returnOne(n overlay.Network, subnet netip.Prefix, now time.Time) {
	used := e.used(n.Name)
	blocks := e.ownBlocks(n, subnet)
	slices.SortFunc(blocks, func(a, b netip.Prefix) int { return overlay.ComparePrefixes(b, a) })
	waiting := e.waiting(n.Name)
	for _, block := range blocks {
		if slices.ContainsFunc(addrsOf(used), block.Contains) {
			delete(e.empty, block)
			continue
		}
		if _, known := e.empty[block]; !known {
			e.empty[block] = now
		}
		rest := slices.DeleteFunc(slices.Clone(blocks), func(p netip.Prefix) bool { return p == block })
		idle := len(used) == 0 && waiting == 0
		if now.Sub(e.empty[block]) >= returnAfter &&
			(idle || ipam.Spare(ipam.Free(rest, addrsOf(used)), waiting, overlay.Usable(block))) {
			e.returning[block] = true
			return
		}
	}
}

func addrsOf(used map[netip.Addr]*entry) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(used))
	for a := range used {
		addrs = append(addrs, a)
	}
	return addrs
}
