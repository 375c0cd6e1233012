// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// World is the word for everything outside of every network, as the source of a rule. No group may
// be called so.
const World = "world"

// MaxPortRanges bounds the port ranges of all rules towards one set of groups: a range takes two
// clauses of a verdict at most, and a verdict has room for 1,024 (bpf/row.MaxClauses).
const MaxPortRanges = 500

// MaxRuleID is the highest number of a rule: what a rule names in the world goes by it.
const MaxRuleID RuleID = 1<<31 - 1

// maxLabel is the length of a DNS label (RFC 1035 section 2.3.4); maxText is ours for ids and names.
const maxLabel, maxText = 63, 255

// problems collects what is wrong with one noun.
type problems struct {
	what string
	list []string
}

func (p *problems) addf(format string, args ...any) {
	p.list = append(p.list, fmt.Sprintf(format, args...))
}

func (p *problems) err() error {
	if p.list == nil {
		return nil
	}
	return fmt.Errorf("%w %s: %s", ErrInvalid, p.what, strings.Join(p.list, "; "))
}

// label checks that value is a DNS label in lower case (RFC 1123 section 2.1).
func (p *problems) label(field, value string) {
	if !isLabel(value) {
		p.addf("%s %q is no DNS label: 1 to %d of a-z, 0-9 and -, no - at either end", field, value, maxLabel)
	}
}

// text checks that value is printable ASCII without spaces, so that it can stand in logs and lists.
func (p *problems) text(field, value string) {
	ok := value != "" && len(value) <= maxText
	for i := range len(value) {
		ok = ok && value[i] > ' ' && value[i] < 0x7f
	}
	if !ok {
		p.addf("%s %q is not allowed: 1 to %d printable characters without spaces", field, value, maxText)
	}
}

func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// Validate reports everything that is wrong with the group. The reserved names are refused: public
// is always there, and world is no group.
func (g Group) Validate() error {
	p := problems{what: fmt.Sprintf("group %q", g.Name)}
	p.label("network", g.Network)
	p.label("name", g.Name)
	switch g.Name {
	case GroupPublic:
		p.addf("name %q is reserved: every network has it without being asked", g.Name)
	case World:
		p.addf("name %q is reserved: it stands for everything outside of the networks", g.Name)
	}
	return p.err()
}

// Validate reports everything that is wrong with the rule by itself; whether its groups are declared
// is for the caller, who knows them.
func (r Rule) Validate() error {
	p := problems{what: fmt.Sprintf("rule from %q to %q", r.From, r.To)}
	p.label("network", r.Network)
	p.from(r)
	p.label("to", r.To)
	if r.To == World {
		p.addf("to %q: allowed is a group; what tasks send to the world is not ruled", World)
	}
	if r.Action != Allow && r.Action != Deny {
		p.addf("action %q is unknown: allowed are %q and %q", r.Action, Allow, Deny)
	}
	if r.Audit && r.Action != Deny {
		p.addf("audit needs action %q: it reports what the rule would drop", Deny)
	}
	p.ports(r)
	return p.err()
}

// Prefix returns the addresses of the world that the rule is from, if it names any.
func (r Rule) Prefix() (netip.Prefix, bool) {
	prefix, err := netip.ParsePrefix(r.From)
	return prefix, err == nil && prefix == prefix.Masked() && !prefix.Addr().Is4In6()
}

func (p *problems) from(r Rule) {
	if !strings.ContainsAny(r.From, "/:.") {
		p.label("from", r.From)
		return
	}
	prefix, err := netip.ParsePrefix(r.From)
	switch {
	case err != nil:
		p.addf("from %q is no group, %q or addresses such as 192.0.2.0/24 or 2001:db8::/32", r.From, World)
	case prefix.Addr().Is4In6():
		p.addf("from %s: IPv4 addresses are written as such, %s", r.From, prefix.Addr().Unmap())
	case prefix != prefix.Masked():
		p.addf("from %s has bits behind its length: allowed is %s", r.From, prefix.Masked())
	case r.ID > MaxRuleID:
		p.addf("id %d is above %d", r.ID, MaxRuleID)
	}
}

func (p *problems) ports(r Rule) {
	switch r.Protocol {
	case "tcp", "udp":
	case "", "icmp":
		if len(r.Ports) > 0 {
			p.addf("ports need protocol tcp or udp, got %q", r.Protocol)
		}
	default:
		p.addf("protocol %q is unknown: allowed are tcp, udp, icmp or none for all", r.Protocol)
	}
	for _, pr := range r.Ports {
		if pr.First == 0 || pr.First > pr.Last {
			p.addf("ports %d-%d: allowed are 1 to 65535, the first not above the last", pr.First, pr.Last)
		}
	}
	if len(r.Ports) > MaxPortRanges {
		p.addf("ports are %d ranges: a rule may name %d, or none for all", len(r.Ports), MaxPortRanges)
	}
}

// Normal returns the attachment with defaults filled in and its groups sorted, each once.
func (a Attachment) Normal() Attachment {
	if a.Interface == "" && !a.InHost() {
		a.Interface = "eth0"
	}
	if a.Name == "" {
		a.Name = a.Task
	}
	a.Groups = slices.Compact(slices.Sorted(slices.Values(a.Groups)))
	a.Ports = normalPorts(a.Ports)
	a.Fixed = slices.SortedFunc(slices.Values(a.Fixed), netip.Addr.Compare)
	return a
}

// Same reports whether a and b ask for the same, defaults filled in.
func (a Attachment) Same(b Attachment) bool {
	return slices.Equal(a.Normal().Groups, b.Normal().Groups) && a.SameTask(b)
}

// SameTask reports whether a and b ask for the same but for the groups, which may change while a task
// runs.
func (a Attachment) SameTask(b Attachment) bool {
	a, b = a.Normal(), b.Normal()
	if !slices.Equal(a.Ports, b.Ports) || !slices.Equal(a.Fixed, b.Fixed) {
		return false
	}
	return a.ID == b.ID && a.Task == b.Task && a.Name == b.Name && a.Network == b.Network && a.NetNS == b.NetNS &&
		a.Interface == b.Interface && a.OwnerPID == b.OwnerPID && a.OwnerStart == b.OwnerStart && a.Cgroup == b.Cgroup
}

// Validate reports everything that is wrong with the attachment by itself, defaults filled in.
func (a Attachment) Validate() error {
	a = a.Normal()
	p := problems{what: fmt.Sprintf("attachment %q", a.ID)}
	p.text("id", a.ID)
	p.text("task", a.Task)
	p.text("name", a.Name)
	p.label("network", a.Network)
	for _, g := range a.Groups {
		p.label("groups", g)
	}
	if !path.IsAbs(a.NetNS) {
		p.addf("netns %q is not an absolute path, such as /proc/PID/ns/net", a.NetNS)
	}
	// 15: IFNAMSIZ less the zero at the end.
	if a.Interface == "lo" || a.Interface == "." || a.Interface == ".." || len(a.Interface) > 15 ||
		strings.ContainsAny(a.Interface, "/: \t\n%") {
		p.addf("interface %q is no name for a link: 1 to 15 characters, no slash, colon, %% or space, not lo", a.Interface)
	}
	if a.OwnerPID < 0 {
		p.addf("owner_pid %d is negative: allowed is a process id, or 0 for none", a.OwnerPID)
	}
	if a.Cgroup != "" && !path.IsAbs(a.Cgroup) {
		p.addf("cgroup %q is not an absolute path", a.Cgroup)
	}
	p.mappings(a.Ports)
	p.fixed(a.Fixed)
	if a.InHost() {
		p.inHost(a)
	}
	return p.err()
}

// inHost checks what only a task in its node's own network has to have, and what it can't have.
func (p *problems) inHost(a Attachment) {
	const where = "a task in network host"
	if len(a.Groups) > 0 {
		p.addf("groups %s: %s has none, who reaches it is its node's firewall's to say", strings.Join(a.Groups, ", "), where)
	}
	if len(a.Ports) > 0 {
		p.addf("ports %s: %s has its node's ports already", a.Ports[0], where)
	}
	if len(a.Fixed) > 0 {
		p.addf("fixed %s: %s has its node's addresses", a.Fixed[0], where)
	}
	if a.Interface != "" {
		p.addf("interface %q: %s has no link of its own", a.Interface, where)
	}
	if a.OwnerPID <= 0 || a.OwnerStart == 0 {
		p.addf("owner_pid %d, owner_start %d: %s has an owner process with its start time, whose end is the only sign of its own",
			a.OwnerPID, a.OwnerStart, where)
	}
}

func sortedPrefixes[V any](m map[netip.Prefix]V) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), ComparePrefixes)
}

// ComparePrefixes orders prefixes by address, then by length.
func ComparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}
