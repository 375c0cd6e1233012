// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"sync"
	"time"
)

// name is one name with all that was ever true of it.
type name struct {
	fqdn string
	host string // where it is announced
	// late is how long after a change another host may answer with what was true before.
	late time.Duration

	mu     sync.Mutex // guards values
	values map[netip.Addr]span
	now    netip.Addr
}

// span is when a value was true: from its announcement's begin until the next one's end. Not known yet: zero.
type span struct{ from, until time.Time }

func newName(fqdn, host string, addr netip.Addr, late time.Duration) *name {
	n := &name{fqdn: fqdn, host: host, late: late, values: map[netip.Addr]span{}}
	n.begin(addr)
	return n
}

// begin says that another value is being announced.
func (n *name) begin(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.values[addr] = span{from: time.Now()}
}

// done says that it is announced: from now on the one before is not true any more.
func (n *name) done(addr netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if was, ok := n.values[n.now]; ok && n.now != addr {
		was.until = time.Now()
		n.values[n.now] = was
	}
	n.now = addr
}

// allows tells whether a host could answer so a question that was under way in this time.
func (n *name) allows(host string, answer netip.Addr, asked, answered time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	s, known := n.values[answer]
	grace := time.Duration(0)
	if host != n.host {
		grace = n.late
	}
	return known && !s.from.After(answered) && (s.until.IsZero() || !asked.After(s.until.Add(grace)))
}
