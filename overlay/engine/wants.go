// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/discovery"
	"weft/overlay"
	"weft/overlay/ipam"
)

// wish is what an attachment waits for.
type wish struct {
	network string
	groups  []string   // wants an identity for them
	address bool       // wants a block
	fixed   netip.Addr // wants the block that holds it
}

// wish notes what an attachment waits for and tells the masters.
func (e *Engine) wish(id string, w wish) error {
	e.mu.Lock()
	e.pending[id] = w
	e.mu.Unlock()
	return e.syncWants()
}

// Keys of want rows.
func groupsKey(network string, groups []string) string {
	return "groups/" + network + "/" + strings.Join(groups, "+")
}
func blocksKey(network string) string              { return "blocks/" + network }
func releasedKey(network string) string            { return "released/" + network }
func fixedKey(network string, a netip.Addr) string { return "address/" + network + "/" + a.String() }

// refused returns the masters' word, if there is one, that what a want row asks for can't be granted.
func (e *Engine) refused(key string, as error) error {
	for _, r := range e.o.Rows.Rows(discovery.KindRefusal) {
		var refusal discovery.Refusal
		if json.Unmarshal(r.Value, &refusal) == nil && r.Writer == discovery.Ledger &&
			refusal.Node == e.o.Node && refusal.Kind == discovery.KindWant && refusal.Key == key {
			return fmt.Errorf("%w: %s", as, refusal.Reason)
		}
	}
	return nil
}

// forget ends the waiting of an attachment. A want row that nobody waits for any more is taken back by
// the loop.
func (e *Engine) forget(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.pending, id)
}

// syncWants makes this node's want rows what they should be.
func (e *Engine) syncWants() error {
	e.wants.Lock()
	defer e.wants.Unlock()
	if !e.facts.Known() {
		return nil
	}
	want := e.wanted()
	for _, r := range e.o.Rows.Own(discovery.KindWant) {
		value, wanted := want[r.Key]
		if !wanted {
			if err := e.o.Rows.Delete(discovery.KindWant, r.Key); err != nil {
				return fmt.Errorf("ask the masters: %w", err)
			}
			continue
		}
		if string(value) == string(r.Value) {
			delete(want, r.Key)
		}
	}
	for key, value := range want {
		if err := e.o.Rows.Put(discovery.KindWant, key, value); err != nil {
			return fmt.Errorf("ask the masters: %w", err)
		}
	}
	return nil
}

// wanted returns the want rows: blocks of each network that tasks here are in or wait for, and
// identities that attachments wait for.
func (e *Engine) wanted() map[string][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	rows := make(map[string][]byte)
	add := func(key string, w overlay.Want) {
		value, err := json.Marshal(w)
		if err != nil {
			panic(fmt.Sprintf("a want is not JSON: %v", err))
		}
		rows[key] = value
	}
	for _, w := range e.pending {
		// A block that goes back is asked for when it has gone: masters must not take and give in turns.
		if n, ok := e.facts.Network(w.network); ok && w.fixed.IsValid() && !e.returning[n.BlockOf(w.fixed)] {
			add(fixedKey(w.network, w.fixed), overlay.Want{Network: w.network, Addrs: []netip.Addr{w.fixed}})
		}
		if w.groups == nil {
			continue
		}
		if _, known := e.facts.Identity(w.network, w.groups); !known {
			add(groupsKey(w.network, w.groups), overlay.Want{Network: w.network, Groups: w.groups})
		}
	}
	for _, n := range e.facts.Networks() {
		if w := e.blockWant(n.Normal()); w.Blocks4+w.Blocks6 > 0 || w.Return != nil {
			add(blocksKey(n.Name), w)
		}
	}
	for network, released := range e.released() {
		add(releasedKey(network), overlay.Want{Network: network, Released: released})
	}
	return rows
}

// blockWant returns how many blocks of a network this node should hold, and which go back. The caller
// holds e.mu.
func (e *Engine) blockWant(n overlay.Network) overlay.Want {
	w := overlay.Want{Network: n.Name, Return: e.returned(n)}
	for _, subnet := range n.Subnets() {
		count := e.blocksWanted(n, subnet)
		if subnet.Addr().Is4() {
			w.Blocks4 = count
		} else {
			w.Blocks6 = count
		}
	}
	return w
}

// released returns the retired identities that no task here has, by network. The caller holds e.mu: none
// of them can come into use here before the masters have said that it is in use again.
func (e *Engine) released() map[string][]overlay.Release {
	type identityOf struct {
		network  string
		identity overlay.Identity
	}
	used := make(map[identityOf]bool)
	for _, en := range e.entries {
		used[identityOf{en.Network, en.Identity}] = true
	}
	list := make(map[string][]overlay.Release)
	for _, s := range e.facts.Sets() {
		if s.Retired != 0 && !used[identityOf{s.Network, s.Identity}] {
			list[s.Network] = append(list[s.Network], overlay.Release{Identity: s.Identity, Retired: s.Retired})
		}
	}
	for _, l := range list {
		slices.SortFunc(l, func(a, b overlay.Release) int { return cmp.Compare(a.Identity, b.Identity) })
	}
	return list
}

// blocksWanted returns how many blocks of a family this node should hold. The caller holds e.mu.
func (e *Engine) blocksWanted(n overlay.Network, subnet netip.Prefix) int {
	held := e.ownBlocks(n, subnet)
	used, waiting := addrsOf(e.used(n.Name)), e.waiting(n.Name)
	if waiting == 0 && len(used) == 0 {
		if e.o.Eager {
			return max(1, len(held))
		}
		return len(held)
	}
	family := slices.DeleteFunc(used, func(a netip.Addr) bool { return a.Is4() != subnet.Addr().Is4() })
	usable := overlay.Usable(netip.PrefixFrom(subnet.Addr(), n.BlockBits(subnet.Addr())))
	return ipam.Wanted(len(held), ipam.Free(held, family), waiting, usable)
}

// waiting counts the attachments that wait for any address of a network. The caller holds e.mu.
func (e *Engine) waiting(network string) (n int) {
	for _, w := range e.pending {
		if w.network == network && w.address {
			n++
		}
	}
	return n
}

// returned lists the blocks of a network that go back, in order. The caller holds e.mu.
func (e *Engine) returned(n overlay.Network) (list []netip.Prefix) {
	for _, b := range e.facts.Blocks() {
		if b.Network == n.Name && b.Node == e.o.Node && e.returning[b.Prefix] {
			list = append(list, b.Prefix)
		}
	}
	slices.SortFunc(list, overlay.ComparePrefixes)
	return list
}
