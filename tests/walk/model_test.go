// SPDX-License-Identifier: Apache-2.0

package walk

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/overlay"
)

// Outcomes of the model.
const (
	pass = "pass"
	drop = "drop"
)

// Ports that rules name and packets go to.
var ports = []uint16{22, 80, 5432}

// outside are addresses of the world, of all kinds that rules can tell apart.
var outside = []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("198.51.100.9")}

// question is one pair and a service.
type question struct {
	src   *task      // nil: the world
	from  netip.Addr // of the world, or of src
	dst   *task
	to    netip.Addr
	proto string
	port  uint16 // 0 for icmp
}

func (q question) String() string {
	src := q.from.String()
	if q.src != nil {
		src = fmt.Sprintf("%s of %s %v at %s", q.src.Name, q.src.in.Name, q.src.Groups, q.src.Node)
	}
	return fmt.Sprintf("%s to %s of %s (ungrouped %s) %v at %s, %s/%d", src, q.dst.Name, q.dst.in.Name, q.dst.in.Ungrouped, q.dst.Groups, q.dst.Node, q.proto, q.port)
}

// question draws one. Tasks of one network are asked about more than others.
func (w *walker) question() question {
	q := question{dst: w.tasks[w.IntN(len(w.tasks))], proto: []string{"tcp", "udp", "icmp"}[w.IntN(3)]}
	if q.proto != "icmp" {
		q.port = ports[w.IntN(len(ports))] + uint16(w.IntN(2)*30)
	}
	addrs := q.dst.Addrs()
	q.to = addrs[w.IntN(len(addrs))]
	var candidates []*task
	for _, t := range w.tasks {
		if t != q.dst && t.in == q.dst.in {
			candidates = append(candidates, t)
		}
	}
	if len(candidates) == 0 || w.IntN(6) == 0 {
		q.to, q.from = q.dst.Addr4, outside[w.IntN(len(outside))]
		return q
	}
	q.src = candidates[w.IntN(len(candidates))]
	q.from = q.src.Addr4
	if q.to.Is6() {
		q.from = q.src.Addr6
	}
	return q
}

// model answers from what was declared alone: the rules with the narrowest service decide, deny before
// allow; groups in common count as the widest rule; rules in audit mode count for nothing. Of rules from
// the world, those of the longest prefix that holds the address count, with those from all of it.
func (q question) model() string {
	best, deny := -1, false
	for _, r := range q.dst.in.rules {
		width := q.width(r)
		if width < 0 || r.Audit || !q.isFrom(r) || !slices.Contains(q.dst.Groups, r.To) {
			continue
		}
		if width > best {
			best, deny = width, false
		}
		deny = deny || width == best && r.Action == overlay.Deny
	}
	switch {
	case best > 0 || best == 0 && deny:
		return verdict(!deny)
	case best == 0 || slices.Contains(q.dst.Groups, overlay.GroupPublic):
		return pass
	case q.src == nil:
		return drop
	}
	common := slices.ContainsFunc(q.src.Groups, func(g string) bool { return slices.Contains(q.dst.Groups, g) })
	bareSrc, bareDst := len(q.src.Groups) == 0, len(q.dst.Groups) == 0
	return verdict(common || bareSrc && bareDst || q.dst.in.Ungrouped == overlay.UngroupedOpen && (bareSrc || bareDst))
}

func verdict(ok bool) string {
	if ok {
		return pass
	}
	return drop
}

// width tells how narrow a rule's service is, -1: another one.
func (q question) width(r overlay.Rule) int {
	switch {
	case r.Protocol == "":
		return 0
	case r.Protocol != q.proto:
		return -1
	case len(r.Ports) == 0:
		return 1
	case slices.ContainsFunc(r.Ports, func(p overlay.PortRange) bool { return p.First <= q.port && q.port <= p.Last }):
		return 2
	}
	return -1
}

func (q question) isFrom(r overlay.Rule) bool {
	if r.From == overlay.World {
		return q.src == nil
	}
	if p, err := netip.ParsePrefix(r.From); err == nil {
		return q.src == nil && p.Contains(q.from)
	}
	return q.src != nil && slices.Contains(q.src.Groups, r.From)
}
