// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// Facts are the rows that nodes write, as the master's row store has them.
type Facts interface {
	// Rows returns the live rows of a kind.
	Rows(kind discovery.Kind) []discovery.Row
}

// Claims is what nodes say that the leader has to answer, in an order that does not depend on when
// it was heard.
type Claims struct {
	nodes    []nodeClaim // by id
	wants    []wantClaim // by node, key
	backends []nameClaim // of named VIPs, by name
	literals []netip.Addr
	broken   []discovery.Refusal // rows that can't be read
	// endpoints reads every task's endpoint: they are many, and seldom asked for.
	endpoints func() []overlay.Endpoint
	now       time.Time
	scarce    int // how many sets of groups a network has when numbers run short; 0: that is not looked at
}

type nodeClaim struct {
	discovery.Node
	incarnation uint64
}

type wantClaim struct {
	overlay.Want
	node        discovery.NodeID
	key         string
	incarnation uint64
}

type nameClaim struct {
	node discovery.NodeID
	key  string
	name string
}

// ReadClaims decodes the rows of the kinds that the leader answers.
func ReadClaims(f Facts, now time.Time) Claims {
	c := Claims{now: now, endpoints: func() []overlay.Endpoint { return Endpoints(f) }}
	each(&c, f, discovery.KindNode, func(r discovery.Row, n discovery.Node) {
		n.ID = discovery.NodeID(r.Writer)
		c.nodes = append(c.nodes, nodeClaim{n, r.Incarnation})
	})
	each(&c, f, discovery.KindWant, func(r discovery.Row, w overlay.Want) {
		c.wants = append(c.wants, wantClaim{w, discovery.NodeID(r.Writer), r.Key, r.Incarnation})
	})
	each(&c, f, discovery.KindBackend, func(r discovery.Row, b lb.Backend) {
		if b.VIP.Addr.IsValid() {
			c.literals = append(c.literals, b.VIP.Addr)
			return
		}
		c.backends = append(c.backends, nameClaim{discovery.NodeID(r.Writer), r.Key, b.VIP.Name})
	})
	slices.SortFunc(c.nodes, func(a, b nodeClaim) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.wants, func(a, b wantClaim) int {
		return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.key, b.key))
	})
	slices.SortFunc(c.backends, func(a, b nameClaim) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.node, b.node), cmp.Compare(a.key, b.key))
	})
	return c
}

// Sweep has Plan look for numbers that nobody uses, too.
func (c *Claims) Sweep() { c.scarce = retireFrom }

// Endpoints decodes those of all tasks.
func Endpoints(f Facts) []overlay.Endpoint {
	var list []overlay.Endpoint
	each(&Claims{}, f, discovery.KindEndpoint, func(r discovery.Row, e overlay.Endpoint) {
		e.Node = discovery.NodeID(r.Writer)
		list = append(list, e)
	})
	return list
}

// each decodes the rows of a kind; a node speaks of itself only: the writer is who it is, whatever
// the value says.
func each[T any](c *Claims, f Facts, kind discovery.Kind, take func(discovery.Row, T)) {
	for _, r := range f.Rows(kind) {
		if r.Deleted || r.Writer == discovery.Ledger {
			continue
		}
		var v T
		if err := json.Unmarshal(r.Value, &v); err != nil {
			c.broken = append(c.broken, discovery.Refusal{
				Node: discovery.NodeID(r.Writer), Kind: kind, Key: r.Key, Reason: fmt.Sprintf("the row can't be read: %v", err),
			})
			continue
		}
		take(r, v)
	}
}
