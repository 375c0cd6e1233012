// SPDX-License-Identifier: Apache-2.0

// Package origin tells which facts a name is made of, who wrote them, and why they give that name; or what keeps it from
// being there. The records are the node's word, by discovery.Service.
package origin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft/discovery"
	"weft/discovery/dnsname"
)

// Record is a record with the fact behind it.
type Record struct {
	discovery.Record
	Why         string `json:"why"`
	Incarnation uint64 `json:"incarnation,omitempty"`
	Seq         uint64 `json:"seq,omitempty"`
	WriterAlive *bool  `json:"writer_alive,omitempty"`
}

// Of looks a name up and finds the rows behind its records.
func Of(ctx context.Context, s discovery.Service, network, name string) ([]Record, error) {
	records, err := s.Lookup(ctx, network, name)
	if errors.Is(err, discovery.ErrNotFound) && network != "" {
		if _, seen := s.Lookup(ctx, "", name); seen == nil {
			return nil, fmt.Errorf("%w for tasks of %s: only other networks see it (weft dns explain %s shows it to the host)", err, network, name)
		}
	}
	if errors.Is(err, discovery.ErrNotFound) {
		return nil, errors.Join(err, whyMissing(ctx, s, name))
	}
	if err != nil {
		return nil, err
	}
	nodes, err := s.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	alive := map[string]bool{discovery.Ledger: true}
	for _, n := range nodes {
		alive[string(n.ID)] = n.Alive
	}
	rows := map[string]discovery.Row{}
	var list []Record
	for _, r := range records {
		kind, _, _ := strings.Cut(r.From, "/")
		if _, asked := rows[kind]; !asked {
			rows[kind] = discovery.Row{}
			all, err := s.Rows(ctx, discovery.Kind(kind))
			if err != nil {
				return nil, err
			}
			for _, row := range all {
				rows[string(row.Kind)+"/"+row.Key+" "+row.Writer] = row
			}
		}
		row := rows[r.From+" "+r.Writer]
		e := Record{Record: r, Why: why(r) + leftOut(r) + former(r, name), Incarnation: row.Incarnation, Seq: row.Seq}
		if a, known := alive[r.Writer]; known {
			e.WriterAlive = &a
		}
		list = append(list, e)
	}
	return list, nil
}

// whyMissing tells which tasks would have the name, were their nodes not silent.
func whyMissing(ctx context.Context, s discovery.Service, name string) error {
	rows, err := s.Rows(ctx, discovery.KindName)
	if err != nil {
		return err
	}
	nodes, err := s.Nodes(ctx)
	if err != nil {
		return err
	}
	var reasons []error
	for _, row := range rows {
		var n discovery.Name
		if row.Deleted || json.Unmarshal(row.Value, &n) != nil || !slices.ContainsFunc(strings.Split(name, "."), func(label string) bool {
			return strings.TrimPrefix(label, "_") == dnsname.Label(n.Label)
		}) {
			continue
		}
		i := slices.IndexFunc(nodes, func(s discovery.NodeStatus) bool { return string(s.ID) == row.Writer })
		if i >= 0 && !nodes[i].Alive {
			reasons = append(reasons, fmt.Errorf("task %s of that name is on %s, which does not answer since %s", n.Task, row.Writer, nodes[i].Since.Format(time.RFC3339)))
		}
	}
	return errors.Join(reasons...)
}

// former tells that a name was asked for by what its zone was called before.
func former(r discovery.Record, asked string) string {
	if r.Name == asked {
		return ""
	}
	return "; now called " + r.Name
}

// leftOut tells of a record that no answer has, and why.
func leftOut(r discovery.Record) string {
	if !r.LeftOut {
		return ""
	}
	return "; left out: the task is not well, and another of that name is"
}

// why tells by which rule a fact gives a record its name.
func why(r discovery.Record) string {
	kind, key, _ := strings.Cut(r.From, "/")
	if _, task, ok := strings.Cut(key, "/"); ok && kind == string(discovery.KindName) {
		key = task // the rest is the row's topic
	}
	is := func(part string) bool { return strings.Contains(r.Name, part) }
	switch {
	case r.From == "zone/masters":
		return "a master, in the order of their ids; with fewer masters than names again from the first"
	case r.Type == "SOA" || r.Type == "NS" || kind == "zone":
		return "the zone itself"
	case kind == "static":
		return "configuration of this node"
	case r.Type == "PTR":
		return "reverse name of an address of " + kind + " " + key
	case kind == string(discovery.KindPin):
		return "VIP " + key + ": its addresses by the masters' word"
	case kind == string(discovery.KindNode):
		return "address of node " + key
	case kind == string(discovery.KindMaster), kind == string(discovery.KindLeader):
		return "address of a master"
	case r.Type == "SRV":
		return "a port of task " + key + ", at its own name"
	case is(".slave."), is(".agentip."):
		return "node of task " + key
	case is(".containerip."):
		return "address of task " + key
	case is(".autoip."):
		return "where task " + key + " is reached"
	}
	return "address of task " + key
}
