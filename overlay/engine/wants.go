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
	groups  []string // wants an identity for them
	address bool     // wants a block
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
func blocksKey(network string) string   { return "blocks/" + network }
func releasedKey(network string) string { return "released/" + network }

// refused returns the masters' word, if there is one, that what a want row asks for can't be granted.
func (e *Engine) refused(key string) error {
	for _, r := range e.o.Rows.Rows(discovery.KindRefusal) {
		var refusal discovery.Refusal
		if json.Unmarshal(r.Value, &refusal) == nil && r.Writer == discovery.Ledger &&
			refusal.Node == e.o.Node && refusal.Kind == discovery.KindWant && refusal.Key == key {
			return fmt.Errorf("%w: %s", overlay.ErrExhausted, refusal.Reason)
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
		if w.groups == nil {
			continue
		}
		if _, known := e.facts.Identity(w.network, w.groups); !known {
			add(groupsKey(w.network, w.groups), overlay.Want{Network: w.network, Groups: w.groups})
		}
	}
	for _, n := range e.facts.Networks() {
		n = n.Normal()
		w := overlay.Want{Network: n.Name}
		for _, subnet := range n.Subnets() {
			count := e.blocksWanted(n, subnet)
			if subnet.Addr().Is4() {
				w.Blocks4 = count
			} else {
				w.Blocks6 = count
			}
		}
		if w.Blocks4+w.Blocks6 > 0 {
			add(blocksKey(n.Name), w)
		}
	}
	for network, released := range e.released() {
		add(releasedKey(network), overlay.Want{Network: network, Released: released})
	}
	return rows
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
	var used []netip.Addr
	for _, en := range e.entries {
		if en.Network == n.Name {
			used = append(used, en.Addrs()...)
		}
	}
	waiting := 0
	for _, w := range e.pending {
		if w.network == n.Name && w.address {
			waiting++
		}
	}
	if waiting == 0 && len(used) == 0 {
		return len(held)
	}
	family := slices.DeleteFunc(used, func(a netip.Addr) bool { return a.Is4() != subnet.Addr().Is4() })
	usable := overlay.Usable(netip.PrefixFrom(subnet.Addr(), n.BlockBits(subnet.Addr())))
	return ipam.Wanted(len(held), ipam.Free(held, family), waiting, usable)
}
