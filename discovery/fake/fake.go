// SPDX-License-Identifier: Apache-2.0

// Package fake is a discovery.Service in memory: one node, whose names are found at once. It is for
// tests of those who use the Service; nothing leaves it.
package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"weft/discovery"
	"weft/discovery/zone"
)

// Service is the fake. It may be used from several goroutines.
type Service struct {
	self  discovery.NodeID
	since time.Time

	mu   sync.Mutex // guards what follows
	rows map[string]discovery.Row
	zone *zone.Zone
	seq  uint64
}

var _ discovery.Service = (*Service)(nil)

// New returns a node without names.
func New(self discovery.NodeID) *Service {
	return &Service{
		self: self, since: time.Now(), rows: map[string]discovery.Row{}, zone: zone.New(zone.Options{}).Completed(),
	}
}

// Announce implements discovery.Service.
func (s *Service) Announce(ctx context.Context, name discovery.Name) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("announce %s: %w", name.Task, err)
	}
	if err := name.Validate(); err != nil {
		return fmt.Errorf("announce %s: %w", name.Task, err)
	}
	if name.Node != "" && name.Node != s.self {
		return fmt.Errorf("announce %s: node %q: %w: this is %s", name.Task, name.Node, discovery.ErrInvalid, s.self)
	}
	name.Node = s.self
	if name.Framework == "" {
		name.Framework = discovery.DefaultFramework
	}
	value, err := json.Marshal(name)
	if err != nil {
		return fmt.Errorf("announce %s: %w", name.Task, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retract(name.Task)
	s.seq++
	s.rows[name.Task] = discovery.Row{
		Writer: string(s.self), Kind: discovery.KindName, Key: name.RowKey(), Incarnation: 1, Seq: s.seq, Value: value,
	}
	s.set(name, zone.Task{Name: name})
	return nil
}

// Retract implements discovery.Service.
func (s *Service) Retract(ctx context.Context, task string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("retract %s: %w", task, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retract(task)
	return nil
}

func (s *Service) retract(task string) {
	var name discovery.Name
	if r, ok := s.rows[task]; ok && json.Unmarshal(r.Value, &name) == nil {
		delete(s.rows, task)
		s.set(name, nil)
	}
}

func (s *Service) set(name discovery.Name, f zone.Fact) {
	source := zone.Source{Kind: discovery.KindName, Key: name.RowKey(), Writer: string(s.self)}
	s.zone, _ = s.zone.With([]zone.Change{{Source: source, Fact: f}})
}

// Lookup implements discovery.Service.
func (s *Service) Lookup(ctx context.Context, network, name string) ([]discovery.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var records []discovery.Record
	for _, r := range s.zone.Lookup(network, strings.ToLower(strings.TrimSuffix(name, "."))+".").Records {
		records = append(records, r.Export())
	}
	if len(records) == 0 {
		return nil, fmt.Errorf("look up %s: %w", name, discovery.ErrNotFound)
	}
	return records, nil
}

// Nodes implements discovery.Service.
func (s *Service) Nodes(ctx context.Context) ([]discovery.NodeStatus, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	return []discovery.NodeStatus{{Node: discovery.Node{ID: s.self}, Alive: true, Admitted: true, Since: s.since}}, nil
}

// Rows implements discovery.Service.
func (s *Service) Rows(ctx context.Context, kind discovery.Kind) ([]discovery.Row, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("rows: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []discovery.Row
	for _, r := range s.rows {
		if kind == "" || r.Kind == kind {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b discovery.Row) int { return strings.Compare(a.Key, b.Key) })
	return rows, nil
}
