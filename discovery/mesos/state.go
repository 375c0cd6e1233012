// SPDX-License-Identifier: Apache-2.0

// Package mesos reads the state document of a Mesos master (GET /master/state) into the facts that
// discovery/zone makes records from. It fetches nothing and resolves no name: host names that need it
// are listed, and whoever has the addresses hands them in.
//
// A document walks through these stages:
//
//  1. Parse: bytes to a State, the parts of the document that names depend on    (state.go, wire.go)
//  2. Hosts: the host names that are no addresses; the caller looks them up      (state.go)
//  3. Facts: a fact per task, framework, agent, and one of all masters           (facts.go)
//  4. Changes: how the facts differ from the ones before                         (facts.go)
package mesos

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxPorts is how many ports of one task are taken from ranges: each there is, once.
const maxPorts = 1 << 16

// Refusals of whole documents.
var (
	// ErrNoLeader tells that a document is not that of a master which knows its leader.
	ErrNoLeader = errors.New("the state names no leader")
	// ErrPID tells that a strict reader found what is no PID.
	ErrPID = errors.New("an actor's id@host:port is allowed")
)

// State is what names depend on of a master's state. The order of frameworks and tasks is the
// document's.
type State struct {
	// Leader is the leading master, host:port.
	Leader     string
	Frameworks []Framework
	agents     []agent
	byID       map[string]int // in agents: the last one of an id counts
	actors     []string       // host:port of the PIDs, as they are written
}

// Framework is a framework that is registered, connected or not.
type Framework struct {
	ID, Name string
	host     string // of the PID, else where its scheduler says to be
	port     string // of the PID
	Tasks    []Task
}

// Task is a task of a framework in any state.
type Task struct {
	ID, Name string
	running  bool
	wire     *wireTask // not nil
}

// agent is an agent that is registered.
type agent struct{ id, host, port string }

// Parse reads a state document. What a single task, framework or agent has wrong costs it records and
// nobody else's; a document that is no state at all is an error. Strict, anything that Mesos-DNS can't read is one too.
func Parse(document []byte, strict bool) (*State, error) {
	var w wireState
	err := json.Unmarshal(document, &w)
	if _, odd := errors.AsType[*json.UnmarshalTypeError](err); err != nil && (strict || !odd) {
		return nil, fmt.Errorf("read the master's state: %w", err)
	}
	_, leader, ok := strings.Cut(w.Leader, "@")
	if !ok || leader == "" || strings.Contains(leader, "@") {
		return nil, fmt.Errorf("read the master's state: leader %q: %w", w.Leader, ErrNoLeader)
	}
	s := &State{Leader: leader, byID: make(map[string]int, len(w.Agents))}
	var errs []error
	place := func(pid wirePID, hostname string) (host, port string) {
		at, host, port, ok := parsePID(pid.text)
		if strict && pid.there && !ok {
			errs = append(errs, fmt.Errorf("read the master's state: PID %q: %w", pid.text, ErrPID))
		}
		if !ok || !strict && !valid(host, port) {
			return hostname, ""
		}
		s.actors = append(s.actors, at)
		return host, port
	}
	for _, a := range w.Agents {
		host, port := place(a.PID, a.Hostname)
		s.byID[a.ID] = len(s.agents)
		s.agents = append(s.agents, agent{a.ID, host, port})
	}
	for _, f := range w.Frameworks {
		host, port := place(f.PID, f.Hostname)
		framework := Framework{ID: f.ID.is, Name: f.Name, host: host, port: port, Tasks: make([]Task, 0, len(f.Tasks))}
		for i := range f.Tasks {
			t := &f.Tasks[i]
			framework.Tasks = append(framework.Tasks, Task{ID: t.ID, Name: t.Name, running: t.State == running, wire: t})
		}
		s.Frameworks = append(s.Frameworks, framework)
	}
	return s, errors.Join(errs...)
}

// Named tells whether a task has names: it runs, on an agent that the master knows.
func (s *State) Named(t Task) bool {
	_, known := s.byID[t.wire.Agent]
	return known && t.running
}

// Actors returns the host:port of each PID as it is written. Mesos-DNS refuses a document with one that it can't resolve.
func (s *State) Actors() []string { return s.actors }

// Hosts returns the names of hosts in the state that are no addresses, each once, sorted.
func (s *State) Hosts() []string {
	var hosts []string
	add := func(host string) {
		if _, ok := parseAddr(host); !ok && host != "" {
			hosts = append(hosts, host)
		}
	}
	for _, a := range s.agents {
		add(a.host)
	}
	for _, f := range s.Frameworks {
		add(f.host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// parsePID takes apart the address of a libprocess actor: id@host:port, of which each may be empty. A host with colons has to
// be in brackets.
func parsePID(pid string) (at, host, port string, ok bool) {
	_, at, ok = strings.Cut(pid, "@")
	i := strings.LastIndexByte(at, ':')
	if !ok || strings.Contains(at, "@") || i < 0 {
		return "", "", "", false
	}
	host, port = at[:i], at[i+1:]
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		host, ok = strings.CutSuffix(inner, "]")
		return at, host, port, ok && !strings.ContainsAny(host, "[]")
	}
	return at, host, port, !strings.ContainsAny(host, ":[]")
}

// valid tells whether somebody can be at a host and a port.
func valid(host, port string) bool {
	_, err := strconv.ParseUint(port, 10, 16)
	return err == nil && host != ""
}

// parseAddr reads an address without a zone; an IPv4 address in IPv6 form is an IPv4 address.
func parseAddr(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	return a.Unmap(), err == nil && a.Zone() == ""
}

func parseAddrs(texts []string) []netip.Addr {
	var addrs []netip.Addr
	for _, t := range texts {
		if a, ok := parseAddr(t); ok {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// parseRanges reads ports as the master writes them: "[31000-31002, 31005-31005]". A range that is
// none is left out.
func parseRanges(text string) []int {
	_, text, ok := strings.Cut(text, "[")
	if !ok {
		return nil
	}
	text, _, _ = strings.Cut(text, "]")
	var ports []int
	for r := range strings.SplitSeq(text, ",") {
		low, high, ok := strings.Cut(strings.TrimSpace(r), "-")
		high, _, _ = strings.Cut(high, "-")
		from, err1 := strconv.Atoi(low)
		to, err2 := strconv.Atoi(high)
		if !ok || err1 != nil || err2 != nil {
			continue
		}
		for p := from; p <= to; p++ {
			if len(ports) == maxPorts {
				return ports
			}
			ports = append(ports, p)
		}
	}
	return ports
}
