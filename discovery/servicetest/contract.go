// SPDX-License-Identifier: Apache-2.0

// Package servicetest is the contract of discovery.Service as a test: what the engine, the gRPC
// client and the in-memory fake have in common. It leaves DNS and other nodes to the rooms that have
// them.
package servicetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"weft/discovery"
)

// RunContract holds a Service to the contract. open returns a new one, without names, of a node whose
// id is host-a.
func RunContract(t *testing.T, open func(t *testing.T) discovery.Service) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(s subject)
	}{
		{"AnnouncedNameIsFound", subject.announced},
		{"RecordsTellWhereTheyAreFrom", subject.provenance},
		{"AnnounceTwiceIsOneName", subject.twice},
		{"AnnounceReplaces", subject.replaces},
		{"TasksShareALabel", subject.share},
		{"LookupTakesAnyCase", subject.anyCase},
		{"RetractIsIdempotent", subject.retract},
		{"UnknownIsNotFound", subject.unknown},
		{"InvalidChangesNothing", subject.invalid},
		{"NameOfAnotherNodeIsInvalid", subject.otherNode},
		{"NodesHaveThisOne", subject.nodes},
		{"RowsAreOfTheirKind", subject.rows},
		{"EndedContextIsAnError", subject.endedContext},
		{"ManyAtOnce", subject.manyAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(subject{open(t), t}) })
	}
}

// subject is the Service that is held to the contract, in one test.
type subject struct {
	discovery.Service
	t *testing.T
}

// Web is a name that every Service takes.
func Web(task string, addrs ...string) discovery.Name {
	n := discovery.Name{
		Task: task, Label: "web", Network: "prod",
		Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 80}},
	}
	for _, a := range addrs {
		n.Addrs = append(n.Addrs, netip.MustParseAddr(a))
	}
	return n
}

func (s subject) announce(n discovery.Name) {
	s.t.Helper()
	if err := s.Announce(s.t.Context(), n); err != nil {
		s.t.Errorf("announce %s: %v", n.Task, err)
	}
}

// found compares type and value of all records of a name, without order.
func (s subject) found(name string, want ...string) {
	s.t.Helper()
	records, err := s.Lookup(s.t.Context(), "prod", name)
	if err != nil {
		s.t.Errorf("look up %s: %v", name, err)
		return
	}
	var got []string
	for _, r := range records {
		got = append(got, r.Type+" "+r.Data)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		s.t.Errorf("%s = %q, want %q", name, got, want)
	}
}

func (s subject) missing(name string) {
	s.t.Helper()
	if records, err := s.Lookup(s.t.Context(), "prod", name); !errors.Is(err, discovery.ErrNotFound) || len(records) > 0 {
		s.t.Errorf("look up %s = %v, %v, want ErrNotFound", name, records, err)
	}
}

func (s subject) announced() {
	s.announce(Web("t1", "9.0.0.2", "fd01:b::2"))
	s.found("web.weft.mesos.", "A 9.0.0.2", "AAAA fd01:b::2")
	s.found("web-hw4uo-a.weft.mesos.", "A 9.0.0.2", "AAAA fd01:b::2")
	s.found("_web._tcp.weft.mesos.", "SRV 0 1 80 web-hw4uo-a.weft.mesos.")
	s.found("_http._web._tcp.weft.mesos.", "SRV 0 1 80 web-hw4uo-a.weft.mesos.")
	s.found("2.0.0.9.in-addr.arpa.", "PTR web.weft.mesos.")
}

func (s subject) provenance() {
	s.announce(Web("t1", "9.0.0.2"))
	records, err := s.Lookup(s.t.Context(), "", "web.weft.mesos.")
	if err != nil || len(records) != 1 {
		s.t.Fatalf("look up: %v, %v, want one record", records, err)
	}
	r := records[0]
	if r.Name != "web.weft.mesos." || r.From != "name/web/t1" || r.Writer != "host-a" || r.TTL <= 0 {
		s.t.Errorf("record %+v, want web.weft.mesos. from name/t1 by host-a", r)
	}
}

func (s subject) twice() {
	s.announce(Web("t1", "9.0.0.2"))
	s.announce(Web("t1", "9.0.0.2"))
	s.found("web.weft.mesos.", "A 9.0.0.2")
	if rows, err := s.Rows(s.t.Context(), discovery.KindName); err != nil || len(rows) != 1 {
		s.t.Errorf("rows: %v, %v, want one", rows, err)
	}
}

func (s subject) replaces() {
	s.announce(Web("t1", "9.0.0.2"))
	n := Web("t1", "9.0.0.3")
	n.Label, n.Framework = "api", "marathon"
	s.announce(n)
	s.missing("web.weft.mesos.")
	s.missing("2.0.0.9.in-addr.arpa.")
	s.found("api.marathon.mesos.", "A 9.0.0.3")
}

func (s subject) share() {
	s.announce(Web("t1", "9.0.0.2"))
	s.announce(Web("t2", "9.0.0.3"))
	s.found("web.weft.mesos.", "A 9.0.0.2", "A 9.0.0.3")
	if err := s.Retract(s.t.Context(), "t1"); err != nil {
		s.t.Error(err)
	}
	s.found("web.weft.mesos.", "A 9.0.0.3")
}

func (s subject) anyCase() {
	s.announce(Web("t1", "9.0.0.2"))
	s.found("WEB.weft.Mesos", "A 9.0.0.2") // and without the final dot
}

func (s subject) retract() {
	s.announce(Web("t1", "9.0.0.2"))
	for range 2 {
		if err := s.Retract(s.t.Context(), "t1"); err != nil {
			s.t.Errorf("retract: %v", err)
		}
		s.missing("web.weft.mesos.")
	}
	if rows, err := s.Rows(s.t.Context(), discovery.KindName); err != nil || len(rows) != 0 {
		s.t.Errorf("rows: %v, %v, want none", rows, err)
	}
}

func (s subject) unknown() {
	s.missing("nothing.weft.mesos.")
	s.missing("example.com.")
	s.missing("")
}

func (s subject) invalid() {
	s.announce(Web("t1", "9.0.0.2"))
	for field, change := range map[string]func(*discovery.Name){
		"label":     func(n *discovery.Name) { n.Label = "not a label" },
		"addrs":     func(n *discovery.Name) { n.Addrs = nil },
		"protocol":  func(n *discovery.Name) { n.Ports[0].Protocol = "sctp" },
		"framework": func(n *discovery.Name) { n.Framework = "..." },
	} {
		n := Web("t1", "9.0.0.9")
		change(&n)
		if err := s.Announce(s.t.Context(), n); !errors.Is(err, discovery.ErrInvalid) || !strings.Contains(err.Error(), field) {
			s.t.Errorf("announce with bad %s: %v, want ErrInvalid that names it", field, err)
		}
	}
	s.found("web.weft.mesos.", "A 9.0.0.2")
}

func (s subject) otherNode() {
	n := Web("t1", "9.0.0.2")
	n.Node = "host-b"
	if err := s.Announce(s.t.Context(), n); !errors.Is(err, discovery.ErrInvalid) || !strings.Contains(err.Error(), "host-b") {
		s.t.Errorf("announce for another node: %v, want ErrInvalid that names it", err)
	}
	n.Node = "host-a"
	s.announce(n)
}

func (s subject) nodes() {
	nodes, err := s.Nodes(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if !slices.IsSortedFunc(nodes, func(a, b discovery.NodeStatus) int { return strings.Compare(string(a.ID), string(b.ID)) }) {
		s.t.Errorf("nodes %v are not by id", nodes)
	}
	if !slices.ContainsFunc(nodes, func(n discovery.NodeStatus) bool { return n.ID == "host-a" && n.Alive }) {
		s.t.Errorf("nodes %v, want host-a, alive, among them", nodes)
	}
}

func (s subject) rows() {
	s.announce(Web("t2", "9.0.0.3"))
	s.announce(Web("t1", "9.0.0.2"))
	rows, err := s.Rows(s.t.Context(), discovery.KindName)
	if err != nil || len(rows) != 2 {
		s.t.Fatalf("rows: %v, %v, want 2", rows, err)
	}
	for i, task := range []string{"t1", "t2"} {
		var n discovery.Name
		if err := json.Unmarshal(rows[i].Value, &n); err != nil {
			s.t.Error(err)
		}
		if rows[i].Key != n.RowKey() || rows[i].Writer != "host-a" || rows[i].Kind != discovery.KindName ||
			n.Task != task || n.Node != "host-a" || n.Framework != discovery.DefaultFramework {
			s.t.Errorf("row %+v with %+v, want name %s of host-a", rows[i], n, task)
		}
	}
	all, err := s.Rows(s.t.Context(), "")
	if err != nil || len(all) < 2 {
		s.t.Errorf("all rows: %v, %v, want 2 or more", all, err)
	}
	if none, err := s.Rows(s.t.Context(), "nonsense"); err != nil || len(none) != 0 {
		s.t.Errorf("rows of no kind: %v, %v", none, err)
	}
}

func (s subject) endedContext() {
	ctx, cancel := context.WithCancel(s.t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"Announce": func() error { return s.Announce(ctx, Web("t1", "9.0.0.2")) },
		"Retract":  func() error { return s.Retract(ctx, "t1") },
		"Lookup":   func() error { _, err := s.Lookup(ctx, "", "leader.mesos."); return err },
		"Nodes":    func() error { _, err := s.Nodes(ctx); return err },
		"Rows":     func() error { _, err := s.Rows(ctx, ""); return err },
	} {
		if err := call(); err == nil || errors.Is(err, discovery.ErrNotFound) {
			s.t.Errorf("%s with an ended context: %v, want its error", name, err)
		}
	}
	s.missing("web.weft.mesos.")
}

func (s subject) manyAtOnce() {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() { s.one(i) })
	}
	wg.Wait()
	records, err := s.Lookup(s.t.Context(), "", "web.weft.mesos.")
	if err != nil || len(records) != 8 {
		s.t.Errorf("look up: %d records, %v, want 8", len(records), err)
	}
}

// one announces a task again and again; odd ones are retracted in the end.
func (s subject) one(i int) {
	task := fmt.Sprintf("t%d", i)
	for range 5 {
		s.announce(Web(task, fmt.Sprintf("9.0.1.%d", i)))
		if records, err := s.Lookup(s.t.Context(), "", "web.weft.mesos."); err != nil || len(records) > 16 {
			s.t.Errorf("look up: %d records, %v", len(records), err)
		}
	}
	if i%2 == 1 {
		if err := s.Retract(s.t.Context(), task); err != nil {
			s.t.Error(err)
		}
	}
}
