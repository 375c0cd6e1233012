// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
)

// World is what Explain knows beside the facts: the tasks of other nodes, and this node's addresses.
type World struct {
	Remote    []overlay.Endpoint // of other nodes
	NodeAddrs []netip.Addr       // of this node
	// Verdict looks a key up in the table that the packet path reads. It is asked about tasks of this
	// node; what other nodes would say is compiled.
	Verdict func(row.VerdictKey) (row.Verdict, bool)
}

// side is one side of a question, found.
type side struct {
	overlay.Endpoint            // zero unless task
	addr             netip.Addr // zero: the world in general
	task, node       bool
	network          string // that the address belongs to; empty: none
}

func (s side) String() string {
	switch {
	case s.task:
		return fmt.Sprintf("%s (%s)", s.Name, s.addr)
	case s.node:
		return fmt.Sprintf("this node (%s)", s.addr)
	case s.network != "":
		return fmt.Sprintf("%s of network %s", s.addr, s.network)
	case s.addr.IsValid():
		return fmt.Sprintf("%s outside of the networks", s.addr)
	}
	return "the world"
}

func (s side) party() party {
	if !s.task {
		return party{identity: row.IdentityWorld}
	}
	return party{s.Identity, s.Groups}
}

// asked is a question with both sides found.
type asked struct {
	f        Facts
	w        World
	src, dst side
	service  service
}

// Explain answers a question from the facts and the verdicts of the packet path. Its errors are about
// the question: ErrInvalid, ErrNotFound, and ErrConflict where a name means several tasks.
func Explain(f Facts, w World, q overlay.Question) (overlay.Verdict, error) {
	proto, known := protocols[strings.ToLower(q.Protocol)]
	if !known || proto == 0 {
		return overlay.Verdict{}, fmt.Errorf("%w protocol %q: allowed are tcp, udp and icmp", overlay.ErrInvalid, q.Protocol)
	}
	if (proto == ICMP) != (q.Port == 0) {
		return overlay.Verdict{}, fmt.Errorf("%w port %d of %s: tcp and udp need 1 to 65535, icmp has none",
			overlay.ErrInvalid, q.Port, q.Protocol)
	}
	src, err := find(f, w, q.Source, q.Network)
	if err != nil {
		return overlay.Verdict{}, fmt.Errorf("source: %w", err)
	}
	dst, err := find(f, w, q.Destination, cmp.Or(q.Network, src.network))
	if err != nil {
		return overlay.Verdict{}, fmt.Errorf("destination: %w", err)
	}
	// A task with two families talks in the one that the other side has.
	src.addr, dst.addr = sameFamily(src, dst.addr), sameFamily(dst, src.addr)
	v := asked{f, w, src, dst, service{proto, q.Port}}.answer()
	v.Source, v.Destination = src.Endpoint, dst.Endpoint
	return v, nil
}

func sameFamily(s side, other netip.Addr) netip.Addr {
	for _, a := range s.Addrs() {
		if s.task && other.IsValid() && a.Is4() == other.Is4() {
			return a
		}
	}
	return s.addr
}

// find resolves an address, task id, attachment id or task name. Names are looked for in network, in
// every one when that is empty; a task of this node is before others of its name.
func find(f Facts, w World, what, network string) (side, error) {
	if what == overlay.World {
		return side{}, nil
	}
	if addr, err := netip.ParseAddr(what); err == nil {
		return findAddr(f, w, addr.Unmap())
	}
	var ids, names []overlay.Endpoint
	for _, e := range everyone(f, w) {
		switch {
		case network != "" && e.Network != network:
		case e.ID == what || e.Task == what:
			ids = append(ids, e)
		case e.Name == what:
			names = append(names, e)
		}
	}
	found := ids
	if len(found) == 0 {
		found = names
	}
	if len(found) == 0 {
		in := "any network"
		if network != "" {
			in = "network " + network
		}
		return side{}, fmt.Errorf("task %q of %s is %w: give the name or id of a task, an address, or %q",
			what, in, overlay.ErrNotFound, overlay.World)
	}
	// Several tasks of one name are the same to the packet path when their network and groups are.
	for _, e := range found[1:] {
		if e.Network != found[0].Network || e.Identity != found[0].Identity {
			return side{}, fmt.Errorf("%w: %q is the name of several tasks with other groups or networks: "+
				"give an id or an address, such as %s or %s", overlay.ErrConflict, what, found[0].ID, e.ID)
		}
	}
	return sideOf(found[0], found[0].Addrs()[0]), nil
}

func sideOf(e overlay.Endpoint, addr netip.Addr) side {
	return side{Endpoint: e, addr: addr, task: true, network: e.Network}
}

// everyone returns every endpoint that has an address, those of this node first.
func everyone(f Facts, w World) []overlay.Endpoint {
	all := make([]overlay.Endpoint, 0, len(f.Tasks)+len(w.Remote))
	for _, t := range f.Tasks {
		all = append(all, t.Endpoint)
	}
	all = append(all, w.Remote...)
	return slices.DeleteFunc(all, func(e overlay.Endpoint) bool { return len(e.Addrs()) == 0 })
}

func findAddr(f Facts, w World, addr netip.Addr) (side, error) {
	for p, use := range overlay.Reserved() {
		if p.Contains(addr) && use == overlay.ForVIPs {
			return side{}, fmt.Errorf("%w: %s is a virtual address: the verdict is about the tasks behind it, "+
				"ask about one of them (see `weft vip list`)", overlay.ErrInvalid, addr)
		}
	}
	for _, e := range everyone(f, w) {
		if slices.Contains(e.Addrs(), addr) {
			return sideOf(e, addr), nil
		}
	}
	s := side{addr: addr, node: slices.Contains(w.NodeAddrs, addr) || addr == f.VTEP}
	for _, n := range f.Networks {
		for _, p := range n.Subnets() {
			if p.Contains(addr) {
				s.network = n.Name
			}
		}
	}
	return s, nil
}

// answer goes the way of a packet: source, place of the destination, verdict.
func (a asked) answer() overlay.Verdict {
	src, dst := a.src, a.dst
	switch {
	case !src.task && !dst.task && src.network == "" && dst.network == "":
		return no(row.ReasonNotOurs, "neither %s nor %s is a task: Weft has no say in what they send each other", src, dst)
	case src.addr.IsValid() && dst.addr.IsValid() && src.addr.Is4() != dst.addr.Is4():
		return no(row.ReasonNoEndpoint, "%s and %s have no address family in common", src, dst)
	case src.node && dst.Node == a.f.Node:
		return yes(row.ReasonFromHost, "a task and its own node may always talk")
	case dst.node && src.Node == a.f.Node:
		return yes(row.ReasonToHost, "a task and its own node may always talk")
	case src.task && !dst.task && dst.network == "":
		return yes(row.ReasonToHost, "%s leaves by its node, with the node's address", src)
	case src.network != "" && dst.network != "" && src.network != dst.network:
		return no(row.ReasonOtherNetwork, "%s is in network %s, %s in network %s: networks never meet",
			src, src.network, dst, dst.network)
	case !src.task && src.network != "":
		return no(row.ReasonSpoofedAddress, "no task has %s, so no packet can come from it", src.addr)
	case !dst.task:
		return a.nobody()
	}
	return a.verdict()
}

// nobody tells why an address of the network leads nowhere.
func (a asked) nobody() overlay.Verdict {
	n := byName(a.f.Networks)[a.dst.network]
	for _, b := range a.f.Blocks {
		if b.Network == n.Name && b.Prefix.Contains(a.dst.addr) {
			return no(row.ReasonNoEndpoint, "no task has %s; its block %s is node %s's", a.dst.addr, b.Prefix, b.Node)
		}
	}
	return no(row.ReasonNoBlock, "no node holds the block of %s in network %s", a.dst.addr, n.Name)
}

// verdict looks up what the packet path looks up.
func (a asked) verdict() overlay.Verdict {
	n, known := byName(a.f.Networks)[a.dst.network]
	if !known {
		return no(row.ReasonOtherNetwork, "network %s is not known here", a.dst.network)
	}
	look := a.w.Verdict
	if a.dst.Node != a.f.Node || look == nil {
		look = a.compiled(n)
	}
	for _, s := range a.service.wider() {
		v, ok := look(verdictKey(n.VNI, a.src.party().identity, a.dst.Identity, s))
		if !ok {
			continue
		}
		switch v.Action {
		case row.VerdictAllow:
			return a.allowed(n, v.Rule)
		case row.VerdictAudit:
			out := yes(row.ReasonAudited, "%s may reach %s on %s, but %s, in audit mode, would deny it",
				a.src, a.dst, a.wanted(), a.rule(v.Rule))
			out.Rule = overlay.RuleID(v.Rule)
			return out
		default:
			out := no(row.ReasonDenied, "%s denies %s to reach %s on %s", a.rule(v.Rule), a.src, a.dst, a.wanted())
			out.Rule = overlay.RuleID(v.Rule)
			out.Suggestion = fmt.Sprintf("weft rule remove %s %d", n.Name, v.Rule)
			return out
		}
	}
	return a.missing(n)
}

// compiled answers as the node of the destination would.
func (a asked) compiled(n overlay.Network) func(row.VerdictKey) (row.Verdict, bool) {
	f := a.f
	f.Tasks = append(slices.Clone(f.Tasks), Task{Endpoint: a.src.Endpoint}, Task{Endpoint: a.dst.Endpoint})
	rows := make(map[row.VerdictKey]row.Verdict)
	towards(rows, n, f.Rules, partiesOf(f, n.Name), a.dst.party())
	return func(key row.VerdictKey) (row.Verdict, bool) {
		v, ok := rows[key]
		return v, ok
	}
}

func (a asked) allowed(n overlay.Network, rule uint32) overlay.Verdict {
	reason := row.ReasonDelivered
	if !a.src.task {
		reason = row.ReasonFromHost
	}
	if rule != 0 {
		v := yes(reason, "%s lets %s reach %s on %s", a.rule(rule), a.src, a.dst, a.wanted())
		v.Rule = overlay.RuleID(rule)
		return v
	}
	switch why, _ := commonGround(n, a.src.party(), a.dst.party()); why {
	case "public":
		return yes(reason, "%s is in group %s, which accepts from anywhere", a.dst, overlay.GroupPublic)
	case "no groups":
		return yes(reason, "neither %s nor %s is in a group", a.src, a.dst)
	case "open":
		return yes(reason, "network %s lets tasks without groups talk to all (ungrouped = open)", n.Name)
	default:
		return yes(reason, "%s and %s are both in group %s", a.src, a.dst, why)
	}
}

// missing tells what is not there, and what would help.
func (a asked) missing(n overlay.Network) overlay.Verdict {
	reason := row.ReasonNoCommonGroup
	from, who := overlay.World, fmt.Sprint(a.src)
	if !a.src.task {
		reason = row.ReasonNotPublic
	} else {
		who = fmt.Sprintf("%s is in %s", a.src, groups(a.src.Groups))
		from = strings.Join(a.src.Groups[:min(1, len(a.src.Groups))], "")
	}
	v := no(reason, "%s, %s in %s: they share none, and no rule lets the one reach the other on %s",
		who, a.dst, groups(a.dst.Groups), a.wanted())
	if !a.src.task {
		v.Text = fmt.Sprintf("%s is in %s, not in group %s, and no rule lets %s reach it on %s",
			a.dst, groups(a.dst.Groups), overlay.GroupPublic, who, a.wanted())
	}
	if near := a.nearest(n); near != "" {
		v.Text += "; " + near
	}
	if len(a.dst.Groups) == 0 || from == "" {
		v.Text += "; a rule needs a group on both sides: start the task with --group"
	} else {
		v.Suggestion = fmt.Sprintf("weft rule add %s --from %s --to %s --port %s", n.Name, from, a.dst.Groups[0], a.wanted())
	}
	return v
}

// nearest names the rule between these two that lacks only the port, if there is one.
func (a asked) nearest(n overlay.Network) string {
	for _, r := range slices.SortedFunc(slices.Values(a.f.Rules), func(x, y overlay.Rule) int { return cmp.Compare(x.ID, y.ID) }) {
		if r.Network == n.Name && r.Action == overlay.Allow && a.src.party().in(r.From) && a.dst.party().in(r.To) {
			return fmt.Sprintf("the nearest is %s, which lacks %s", a.rule(uint32(r.ID)), a.wanted())
		}
	}
	return ""
}

// rule names a rule with what it says.
func (a asked) rule(id uint32) string {
	for _, r := range a.f.Rules {
		if uint32(r.ID) == id {
			return fmt.Sprintf("rule %d (%s %s to %s%s)", id, r.Action, r.From, r.To, ports(r))
		}
	}
	return fmt.Sprintf("rule %d", id)
}

func ports(r overlay.Rule) string {
	if r.Protocol == "" {
		return ""
	}
	var list []string
	for _, p := range r.Ports {
		if p.First == p.Last {
			list = append(list, fmt.Sprint(p.First))
		} else {
			list = append(list, fmt.Sprintf("%d-%d", p.First, p.Last))
		}
	}
	if list == nil {
		return " " + r.Protocol
	}
	return " " + r.Protocol + "/" + strings.Join(list, ",")
}

// wanted is the service in the form of the command line: tcp/80.
func (a asked) wanted() string {
	for name, proto := range protocols {
		if proto == a.service.proto && proto != ICMP {
			return fmt.Sprintf("%s/%d", name, a.service.port)
		}
	}
	return "icmp"
}

func groups(list []string) string {
	switch len(list) {
	case 0:
		return "no group"
	case 1:
		return "group " + list[0]
	}
	return "groups " + strings.Join(list, " and ")
}

func yes(r row.Reason, format string, args ...any) overlay.Verdict {
	return overlay.Verdict{Allowed: true, Reason: r.String(), Text: fmt.Sprintf(format, args...)}
}

func no(r row.Reason, format string, args ...any) overlay.Verdict {
	return overlay.Verdict{Reason: r.String(), Text: fmt.Sprintf(format, args...)}
}

// Endpoints returns the endpoints of other nodes among all: what World.Remote wants.
func Endpoints(all []overlay.Endpoint, self discovery.NodeID) []overlay.Endpoint {
	return slices.DeleteFunc(slices.Clone(all), func(e overlay.Endpoint) bool { return e.Node == self })
}
