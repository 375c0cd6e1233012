// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/lb"
)

// member is a backend that may serve one address of a VIP; it points into the status that it is
// reported in.
type member struct {
	status  *lb.BackendStatus
	balance lb.Balance // of the VIP
	peer    netip.AddrPort
}

// collect gives a VIP a new status, with every backend out, and adds who may serve which of its rows.
func (c *Compiler) collect(e *entry, members map[row.VIPKey][]member) {
	vip := &VIP{VIPStatus: lb.VIPStatus{Key: e.key, Balance: e.backends[0].Balance, Backends: e.backends}}
	e.vip, e.backends = vip, nil
	if e.key.Name != "" {
		vip.DNS = lb.DNSName(e.key.Name)
	}
	why := "has no address of the VIP's family"
	if _, known := c.networks[e.key.Network]; !known {
		why = fmt.Sprintf("network %s is not known", e.key.Network)
	} else if len(e.rows) == 0 {
		why = "waiting for a master to give " + e.key.Name + " an address"
	}
	for i := range vip.Backends {
		vip.Backends[i].Reason = why
	}
	for _, key := range e.rows {
		addr := key.Addr.Netip()
		served := false
		for i := range vip.Backends {
			b := &vip.Backends[i]
			for _, a := range b.Addrs {
				if a.Is4() == addr.Is4() {
					members[key] = append(members[key], member{b, vip.Balance, netip.AddrPortFrom(a, b.Port)})
					served = true
				}
			}
		}
		if served {
			vip.Addrs = append(vip.Addrs, addr)
		}
	}
}

// number notes by which ids the kernel half knows the backends of a VIP.
func (c *Compiler) number(e *entry) {
	ids := make(map[netip.AddrPort]uint32)
	for _, key := range e.rows {
		for _, b := range c.held[key].slots {
			ids[peerOf(b)] = b.ID
		}
	}
	for i := range e.vip.Backends {
		b := &e.vip.Backends[i]
		for _, a := range b.Addrs {
			e.vip.IDs = append(e.vip.IDs, ids[netip.AddrPortFrom(a, b.Port)])
		}
	}
}

func peerOf(b row.Backend) netip.AddrPort {
	return netip.AddrPortFrom(b.Addr.Netip(), row.Port(b.Port))
}

// judge decides who of a row's members is in, tells the reasons to their status and returns who stands
// where. When none is fit, all are in that don't drain: who answers is found out by trying. RefuseUnhealthy makes
// that all whose nodes are down.
func (c *Compiler) judge(ms []member) service {
	noneFit := !slices.ContainsFunc(ms, func(m member) bool { return !m.draining() && c.unfit(m.status) == "" })
	in := service{backends: make(map[netip.AddrPort]standing, len(ms))}
	if len(ms) > 0 {
		in.balance = ms[0].balance
	}
	for _, m := range ms {
		why, down := c.unfit(m.status), c.nodes.Down[m.status.Node] != ""
		_, counted := in.backends[m.peer]
		switch {
		case !counted && len(in.backends) == maxBackends:
			m.say(fmt.Sprintf("the VIP has %d backends, more are not served", maxBackends))
		case m.draining():
			m.say(drainReason(m.status))
			if !down {
				c.add(in, m, 0)
			}
		case why == "":
			c.add(in, m, m.status.Weight)
			m.status.In, m.status.Reason = true, servingReason(m.status)
		case noneFit && (!c.refuseUnhealthy || !isSick(m.status)):
			c.add(in, m, m.status.Weight)
			m.status.In, m.status.Reason = true, why+", kept because no other backend is up"
		default:
			m.say(why)
			if !down { // its node still answers for it: what is under way goes on
				c.add(in, m, 0)
			}
		}
	}
	return in
}

// unfit says why a backend shall get nothing new; empty: nothing speaks against it.
func (c *Compiler) unfit(b *lb.BackendStatus) string {
	if why := c.nodes.Down[b.Node]; why != "" {
		return fmt.Sprintf("node %s %s", b.Node, why)
	}
	switch b.Health {
	case lb.Unhealthy:
		return "unhealthy: " + cmp.Or(b.Detail, "its checks fail")
	case lb.Unknown:
		return "no check succeeded yet"
	default:
		return ""
	}
}

func isSick(b *lb.BackendStatus) bool { return b.Health == lb.Unhealthy || b.Health == lb.Unknown }

func (m member) draining() bool { return m.status.Weight == 0 || m.status.Draining }

func drainReason(b *lb.BackendStatus) string {
	if b.Draining {
		return "draining: its task ends"
	}
	return "draining"
}

func servingReason(b *lb.BackendStatus) string {
	if b.Health == lb.Healthy {
		return "serving, healthy"
	}
	return "serving"
}

// say gives the reason for being out, unless the backend is in at another address of the VIP.
func (m member) say(why string) {
	if !m.status.In {
		m.status.Reason = why
	}
}

// service is what serves a row: two tasks at one address and port are one backend.
type service struct {
	balance  lb.Balance
	backends map[netip.AddrPort]standing
}

// standing is how a backend is asked: weight 0 is draining.
type standing struct {
	weight uint16
	near   bool
}

func (c *Compiler) add(s service, m member, weight uint16) {
	old := s.backends[m.peer]
	s.backends[m.peer] = standing{max(old.weight, weight), old.near || c.nodes.near(s.balance.Prefer, m.status.Node)}
}
