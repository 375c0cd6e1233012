// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"strings"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
)

// told is one packet or question with its reason, and what a Fault's braces stand for.
type told struct {
	asked
	reason row.Reason
	event  row.Event // zero: a question
	sender side      // who put it on the link; src, where that is not known
}

func (a asked) told(reason row.Reason) told { return told{asked: a, reason: reason, sender: a.src} }

func reasonOf(v overlay.Verdict) row.Reason {
	for r := range row.ReasonMax {
		if r.String() == v.Reason {
			return r
		}
	}
	return row.ReasonNone
}

// Describe tells of a packet that the packet path reported what Answer would: the reason in words, the
// rule, who can change it, and how. What passed has the text of reason.h.
func Describe(f compile.Facts, w World, e row.Event) overlay.Verdict {
	t := told{asked: asked{f: f, w: w, service: serviceOf(e)}, reason: row.Reason(e.Reason), event: e}
	network := networkOf(f, e.VNI)
	t.src, t.dst = t.met(network, e.Src, e.SrcIdentity), t.met(network, e.Dst, e.DstIdentity)
	tunnel := e.Program == row.ProgramFromUnderlay || e.Program == row.ProgramFromTunnel
	t.src.stranger = tunnel && network != "" && e.SrcIdentity == row.IdentityNone
	t.sender = t.src
	if own, ok := findHost(f, string(f.Node)); ok && e.Program == row.ProgramFromNode {
		t.sender = own
	}
	for _, task := range f.Tasks {
		if e.Program == row.ProgramFromWorkload && task.Ifindex == e.Ifindex {
			t.sender = sideOf(task.Endpoint, task.Addrs()[0])
		}
	}
	n, _ := f.Network(network)
	v := t.words(n)
	v.Reason, v.Allowed = t.reason.String(), !t.reason.Drop()
	v.Rule = overlay.RuleID(e.Rule)
	t.complete(&v)
	return v
}

func serviceOf(e row.Event) compile.Service {
	switch e.Proto {
	case 58: // ICMPv6
		return compile.Service{Proto: compile.ICMP}
	case compile.ICMP:
		return compile.Service{Proto: compile.ICMP}
	}
	return compile.Service{Proto: e.Proto, Port: row.Port(e.Dport)}
}

func networkOf(f compile.Facts, vni uint32) string {
	for _, n := range f.Networks {
		if vni != 0 && uint32(n.VNI) == vni {
			return n.Name
		}
	}
	return ""
}

// met returns a side as the packet path met it: what its identity stands for counts more than what
// rows say of its address.
func (t told) met(network string, a row.Addr, identity uint16) side {
	s := side{addr: a.Netip()}
	if s.addr.IsValid() {
		for _, e := range everyone(t.f, t.w) {
			for _, own := range e.Addrs() {
				if e.Network == network && own == s.addr {
					s = sideOf(e, s.addr)
				}
			}
		}
		if !s.task {
			s = findAddr(t.f, t.w, s.addr)
		}
	}
	if identity < row.IdentityUngrouped || identity == row.IdentityOtherNode || s.task && s.Identity == overlay.Identity(identity) {
		return s
	}
	s.Identity, s.Groups, s.network = overlay.Identity(identity), nil, network
	s.grouped, s.lost = true, identity >= row.IdentityFirst
	for _, set := range t.f.Sets {
		if set.Network == network && set.Identity == overlay.Identity(identity) {
			s.Groups, s.lost = set.Groups, false
		}
	}
	return s
}

// words finds the sentence of a reason.
func (t told) words(n overlay.Network) overlay.Verdict {
	if t.reason == row.ReasonSpoofedAddress && t.sender.node {
		return overlay.Verdict{
			Text:       t.fill("{sender} sent as {source}: a node's processes send to networks as {addrs}, and nobody else does by way of it"),
			Suggestion: t.fill("let the process bind to no address, or to one of {addrs}: ip route get {destination} tells which the kernel takes"),
		}
	}
	switch t.reason {
	case row.ReasonDenied:
		return t.decided(n, row.ClauseOf(0, 0, row.VerdictDeny, t.event.Rule))
	case row.ReasonAudited:
		return t.decided(n, row.ClauseOf(0, 0, row.VerdictAudit, t.event.Rule))
	case row.ReasonNoCommonGroup, row.ReasonNotPublic:
		return t.missing(n)
	case row.ReasonNoEndpoint, row.ReasonNoBlock:
		if t.dst.task {
			return overlay.Verdict{Text: fmt.Sprintf("%s is not behind the link that the packet was sent to", t.dst)}
		}
		t.dst.network = cmp.Or(t.dst.network, n.Name)
		return t.nobody()
	case row.ReasonOtherNetwork:
		return t.apart()
	default:
		return overlay.Verdict{Text: cmp.Or(t.fill(faults[t.reason].Text), t.reason.Text())}
	}
}

// complete adds who can change it and how, where the words did not say.
func (t told) complete(v *overlay.Verdict) {
	fault, known := faults[t.reason]
	if !known {
		return
	}
	v.Owner = t.owner(fault.Owner)
	v.Suggestion = cmp.Or(v.Suggestion, t.fill(fault.Check))
}

func (t told) owner(o Owner) string {
	switch o {
	case OwnerOperator:
		if n := cmp.Or(t.dst.network, t.src.network, t.sender.network); n != "" {
			return "operator of network " + n
		}
		return "operator"
	case OwnerTask:
		switch {
		case t.sender.task:
			return "task " + t.sender.Name
		case t.sender.node:
			return fmt.Sprintf("node %s", t.f.Node)
		}
		return "whoever sends from " + t.sender.String()
	case OwnerNode:
		return fmt.Sprintf("node %s", t.f.Node)
	default:
		return "operator of the underlay"
	}
}

// fill replaces what stands in braces.
func (t told) fill(text string) string {
	if !strings.Contains(text, "{") {
		return text
	}
	address := func(s side, a row.Addr) string {
		switch {
		case a != row.Addr{}:
			return a.Netip().String()
		case s.addr.IsValid():
			return s.addr.String()
		}
		return "an unknown address"
	}
	own := make([]string, 0, 2)
	for _, a := range t.sender.own() {
		own = append(own, a.String())
	}
	return strings.NewReplacer(
		"{sender}", t.sender.String(), "{src}", t.src.String(), "{dst}", t.dst.String(),
		"{source}", address(t.src, t.event.Src), "{destination}", address(t.dst, t.event.Dst),
		"{service}", t.wanted(), "{protocol}", strings.Split(t.wanted(), "/")[0],
		"{network}", cmp.Or(t.dst.network, t.src.network, t.sender.network, "NETWORK"), "{node}", string(t.f.Node),
		"{length}", fmt.Sprint(t.event.Len), "{mac}", cmp.Or(t.sender.MAC, "the task's"),
		"{addrs}", cmp.Or(strings.Join(own, " and "), "others"), "{link}", cmp.Or(t.sender.HostInterface, "any"),
	).Replace(text)
}
