// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sort"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
)

// Compiler holds facts and the rows that they came to, so that a change costs what it touches. It is for
// one goroutine.
type Compiler struct {
	networks map[string]uint32
	pins     map[string]lb.Pin
	nodes    Nodes
	vnis     map[uint32]int   // networks by VNI
	pinned   map[row.Addr]int // pins by address

	refuseUnhealthy bool

	order  []*entry                // by key
	where  map[Source]*entry       // a backend row, and behind which VIP it is
	at     map[row.VIPKey][]*entry // who leads to a row: more than one where a literal VIP is at a pinned address
	held   map[row.VIPKey]held
	copies map[row.VIPKey]row.VIP // rows that are another one once more, see host.go

	vips, backends ids
	dirty          map[*entry]struct{}
	loose          bool  // rows that nobody leads to are to be looked at again
	first          *Rows // what the tables held at first, until the first Compile
	count          Counts
}

// Source is the row that a backend comes from: who wrote it, and under which key.
type Source struct {
	Node discovery.NodeID
	Key  string
}

// Counts is how many VIPs and backends there are, and backends that are in.
type Counts struct{ VIPs, Backends, In int }

// entry is a VIP by its key.
type entry struct {
	key     lb.Key
	vip     *VIP                   // as compiled last; nil: not yet
	keys    []string               // of the rows of vip.Backends
	rows    []row.VIPKey           // that it leads to
	pending map[Source]*lb.Backend // changes since; nil: gone

	backends []lb.BackendStatus // while it is compiled: those of vip to be
}

// held is a VIP in the tables.
type held struct {
	row.VIP
	slots []row.Backend
	table *row.Maglev // nil: its policy needs none
}

// Step is what a compilation changed: the rows of the VIPs that it touched, before and after. The first one
// holds everything.
type Step struct {
	Have, Want Rows
	// Changed tells that a status may have changed, Named that a VIP came or went or has other addresses.
	Changed, Named bool
}

// New returns a Compiler without facts, whose tables hold have.
func New(have Rows) *Compiler {
	c := &Compiler{
		pins: make(map[string]lb.Pin), vnis: make(map[uint32]int), pinned: make(map[row.Addr]int),
		where: make(map[Source]*entry), at: make(map[row.VIPKey][]*entry), dirty: make(map[*entry]struct{}),
	}
	c.SetNetworks(nil)
	c.Reset(have)
	return c
}

// Reset says that the tables hold have and nothing else: with the next step everything is compiled anew.
func (c *Compiler) Reset(have Rows) {
	c.held, c.loose, c.first = make(map[row.VIPKey]held, len(have.VIPs)), true, &have
	c.copies = make(map[row.VIPKey]row.VIP, len(have.VIPs))
	c.vips, c.backends = ids{taken: c.hasVIP}, ids{taken: c.hasBackend}
	given := make(map[uint32]bool, len(have.VIPs))
	for _, key := range slices.SortedFunc(maps.Keys(have.VIPs), compareVIPs) {
		vip := have.VIPs[key]
		c.vips.use(vip.ID)
		if host, there := have.VIPs[in(vniHost, key)]; key.VNI == row.VNINodes || key.VNI != vniHost && there && host.ID == vip.ID {
			c.copies[key] = vip
			continue
		}
		if given[vip.ID] {
			vip.ID, vip.Backends = 0, 0 // of two VIPs with one id, one gets another
		}
		given[vip.ID] = true
		c.held[key] = held{vip, oldSlots(have, vip), nil}
	}
	for k, b := range have.Backends {
		c.vips.use(k.VIP) // left behind by a write that was cut short
		c.backends.use(b.ID)
	}
	c.touch(func(*entry) bool { return true })
}

// SetNetworks says which networks there are, with their VNIs.
func (c *Compiler) SetNetworks(networks map[string]uint32) {
	networks = withHost(networks)
	if maps.Equal(c.networks, networks) {
		return
	}
	before := c.networks
	c.networks = networks
	clear(c.vnis)
	for _, vni := range networks {
		c.vnis[vni]++
	}
	c.loose = true
	c.touch(func(e *entry) bool {
		was, had := before[e.key.Network]
		is, has := networks[e.key.Network]
		return had != has || was != is || e.key.Network == discovery.HostNetwork // which is shown in each
	})
}

// SetNodes says where nodes are and which are down.
func (c *Compiler) SetNodes(n Nodes) {
	before := c.nodes
	c.nodes = n
	changed := make(map[discovery.NodeID]bool)
	differ(before.Down, n.Down, changed)
	differ(before.Zones, n.Zones, changed)
	if len(changed) == 0 && before.Self == n.Self {
		return
	}
	all := before.Self != n.Self || changed[n.Self] // what is near may be another
	c.touch(func(e *entry) bool {
		return all || e.vip != nil && slices.ContainsFunc(e.vip.Backends, func(b lb.BackendStatus) bool { return changed[b.Node] })
	})
}

// SetRefuseUnhealthy says whether health decides even about the last backend of a VIP.
func (c *Compiler) SetRefuseUnhealthy(on bool) {
	if c.refuseUnhealthy != on {
		c.refuseUnhealthy = on
		c.touch(func(*entry) bool { return true })
	}
}

func differ(a, b map[discovery.NodeID]string, changed map[discovery.NodeID]bool) {
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			changed[k] = true
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			changed[k] = true
		}
	}
}

// SetPin says which addresses a name has; those of a zero pin are none.
func (c *Compiler) SetPin(name string, pin lb.Pin) {
	before := c.pins[name]
	if before == pin {
		return
	}
	if c.pins[name] = pin; pin == (lb.Pin{}) {
		delete(c.pins, name)
	}
	for _, a := range pinAddrs(pin) {
		c.pinned[row.AddrOf(a)]++
	}
	for _, a := range pinAddrs(before) {
		c.loose = true
		if k := row.AddrOf(a); c.pinned[k] == 1 {
			delete(c.pinned, k)
		} else {
			c.pinned[k]--
		}
	}
	// Named keys come in the order of their names, those without before all.
	i, _ := slices.BinarySearchFunc(c.order, name, func(e *entry, name string) int { return cmp.Compare(e.key.Name, name) })
	for ; name != "" && i < len(c.order) && c.order[i].key.Name == name; i++ {
		c.dirty[c.order[i]] = struct{}{}
	}
}

func pinAddrs(p lb.Pin) []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{p.Addr4, p.Addr6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// SetBackend says what a row is now; nil: it is gone. The backend is not changed any more.
func (c *Compiler) SetBackend(from Source, b *lb.Backend) {
	old := c.where[from]
	if old != nil && (b == nil || b.VIP != old.key) {
		c.change(old, from, nil)
		delete(c.where, from)
	}
	if b == nil {
		return
	}
	e := c.entry(b.VIP)
	c.where[from] = e
	c.change(e, from, b)
}

func (c *Compiler) change(e *entry, from Source, b *lb.Backend) {
	if e.pending == nil {
		e.pending = make(map[Source]*lb.Backend)
	}
	e.pending[from] = b
	c.dirty[e] = struct{}{}
}

// entry returns the one of a key, a new one if there is none.
func (c *Compiler) entry(key lb.Key) *entry {
	i, there := slices.BinarySearchFunc(c.order, key, compareEntry)
	if !there {
		c.order = slices.Insert(c.order, i, &entry{key: key})
	}
	return c.order[i]
}

func (c *Compiler) touch(which func(*entry) bool) {
	for _, e := range c.order {
		if which(e) {
			c.dirty[e] = struct{}{}
		}
	}
}

// VIPs returns every VIP that has a backend, by name, address and port. The slice is the caller's.
func (c *Compiler) VIPs() []*VIP {
	vips := make([]*VIP, len(c.order))
	for i, e := range c.order {
		vips[i] = e.vip
	}
	return vips
}

// Counts returns how many there are.
func (c *Compiler) Counts() Counts { return c.count }

// Rows returns all rows.
func (c *Compiler) Rows() Rows {
	all := newRows(len(c.held))
	for key, h := range c.held {
		all.put(key, h)
	}
	maps.Copy(all.VIPs, c.copies)
	return all
}

func (r Rows) put(key row.VIPKey, h held) {
	r.VIPs[key] = h.VIP
	for i, b := range h.slots {
		r.Backends[row.BackendKey{VIP: h.ID, Slot: uint16(i)}] = b
	}
	if h.table != nil {
		r.Maglevs[h.ID] = *h.table
	}
}

// Compile makes rows and statuses what the facts come to, and returns what changed.
func (c *Compiler) Compile(now uint32) Step {
	todo, gone, touched := c.spread()
	step := Step{Have: newRows(len(touched)), Want: newRows(len(touched)), Changed: len(todo)+len(gone) > 0, Named: len(gone) > 0}
	members := make(map[row.VIPKey][]member, len(touched))
	before := make([]*VIP, len(todo))
	for i, e := range todo {
		before[i] = e.vip
		c.collect(e, members)
	}
	for _, key := range touched {
		behind := members[key]
		if host := members[in(vniHost, key)]; key.VNI != vniHost && len(host) > 0 {
			behind = slices.Concat(behind, host)
		}
		c.placeRow(key, behind, now, &step)
	}
	for _, key := range touched {
		c.show(key, &step)
	}
	for i, e := range todo {
		c.number(e)
		c.recount(before[i], e.vip)
		step.Named = step.Named || before[i] == nil || !slices.Equal(before[i].Addrs, e.vip.Addrs)
	}
	for _, e := range gone {
		c.recount(e.vip, nil)
		if i, there := slices.BinarySearchFunc(c.order, e.key, compareEntry); there {
			c.order = slices.Delete(c.order, i, i+1)
		}
	}
	clear(c.dirty)
	if c.first != nil {
		step.Have, step.Changed, step.Named, c.first = *c.first, true, true, nil
	}
	return step
}

// placeRow gives one row its backends, those of host before the others of its family. A VIP that nobody leads to stays,
// without backends, as long as the address is pinned: it is no address of the world.
func (c *Compiler) placeRow(key row.VIPKey, ms []member, now uint32, step *Step) {
	old, known := c.held[key]
	if known {
		step.Have.put(key, old)
	}
	if len(c.at[key]) == 0 {
		_, copied := c.held[in(vniHost, key)]
		if copied = copied && key.VNI != vniHost; copied || !known || c.pinned[key.Addr] == 0 || c.vnis[key.VNI] == 0 {
			delete(c.held, key)
			return
		}
	}
	next := c.place(c.judge(ms), old, c.sharedIDs(key), now)
	c.held[key] = next
	step.Want.put(key, next)
}

func (c *Compiler) recount(before, after *VIP) {
	for _, v := range []struct {
		vip  *VIP
		sign int
	}{{before, -1}, {after, 1}} {
		if v.vip == nil {
			continue
		}
		c.count.VIPs += v.sign
		c.count.Backends += v.sign * len(v.vip.Backends)
		for i := range v.vip.Backends {
			if v.vip.Backends[i].In {
				c.count.In += v.sign
			}
		}
	}
}

// spread merges changes and returns, by key, the VIPs to be compiled anew (those that changed, and all that
// lead to the same rows), those that have no backend any more, and the rows that they come to.
func (c *Compiler) spread() (todo, gone []*entry, touched []row.VIPKey) {
	chosen, seen := make(map[*entry]bool, len(c.dirty)), make(map[row.VIPKey]bool, 2*len(c.dirty))
	touch := func(keys ...row.VIPKey) {
		for _, k := range keys {
			if !seen[k] {
				seen[k] = true
				touched = append(touched, k)
			}
		}
	}
	choose := func(e *entry) {
		if chosen[e] {
			return
		}
		chosen[e] = true
		e.merge()
		touch(e.rows...)
		if len(e.backends) == 0 {
			gone = append(gone, e)
		} else {
			todo = append(todo, e)
		}
	}
	for e := range c.dirty {
		choose(e)
		c.lead(e)
		touch(e.rows...)
	}
	for at := 0; at < len(touched); { // choosing touches more
		for _, e := range c.at[touched[at]] {
			choose(e)
		}
		touch(c.family(touched[at])...)
		at++
	}
	if c.loose {
		c.loose = false
		touch(c.loneRows()...)
	}
	slices.SortFunc(todo, func(a, b *entry) int { return a.key.Compare(b.key) })
	slices.SortFunc(touched, hostFirst)
	return todo, gone, touched
}

// loneRows returns the rows that nobody leads to.
func (c *Compiler) loneRows() (keys []row.VIPKey) {
	for key := range c.held {
		if len(c.at[key]) == 0 {
			keys = append(keys, key)
		}
	}
	for key := range c.copies {
		if _, wanted := c.copyOf(key); !wanted {
			keys = append(keys, key)
		}
	}
	return keys
}

// lead says which rows a VIP leads to: those of its addresses, once address and network are known.
func (c *Compiler) lead(e *entry) {
	for _, key := range e.rows {
		if c.at[key] = slices.DeleteFunc(c.at[key], func(o *entry) bool { return o == e }); len(c.at[key]) == 0 {
			delete(c.at, key)
		}
	}
	e.rows = nil
	vni, known := c.networks[e.key.Network]
	if !known || len(e.backends) == 0 {
		return
	}
	for _, a := range c.addrs(e.key) {
		key := vipKey(vni, a, e.key)
		e.rows = append(e.rows, key)
		c.at[key] = append(c.at[key], e)
	}
}

// addrs returns the addresses of a VIP, none while its name has no pin.
func (c *Compiler) addrs(key lb.Key) []netip.Addr {
	if key.Name == "" {
		return []netip.Addr{key.Addr}
	}
	return pinAddrs(c.pins[key.Name])
}

// merge takes in what changed, and makes the backends ready to be judged: by node, task and row.
func (e *entry) merge() {
	e.backends = nil
	var keys []string
	add := func(key string, b lb.Backend) {
		keys, e.backends = append(keys, key), append(e.backends, lb.BackendStatus{Backend: b})
	}
	if e.vip != nil {
		for i, b := range e.vip.Backends {
			if _, again := e.pending[Source{b.Node, e.keys[i]}]; !again {
				add(e.keys[i], b.Backend)
			}
		}
	}
	for from, b := range e.pending {
		if b != nil {
			add(from.Key, *b)
			e.backends[len(keys)-1].Node = from.Node
		}
	}
	e.keys, e.pending = keys, nil
	sort.Sort(e)
}

// Len, Less and Swap sort backends with the keys of their rows.
func (e *entry) Len() int { return len(e.keys) }

func (e *entry) Less(i, j int) bool {
	a, b := &e.backends[i], &e.backends[j]
	return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Task, b.Task), cmp.Compare(e.keys[i], e.keys[j])) < 0
}

func (e *entry) Swap(i, j int) {
	e.keys[i], e.keys[j] = e.keys[j], e.keys[i]
	e.backends[i], e.backends[j] = e.backends[j], e.backends[i]
}

func compareEntry(e *entry, key lb.Key) int { return e.key.Compare(key) }
