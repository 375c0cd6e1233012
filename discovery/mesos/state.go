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

// ErrNoLeader tells that a document is not that of a master which knows its leader.
var ErrNoLeader = errors.New("the state names no leader")

// State is what names depend on of a master's state. The order of frameworks and tasks is the
// document's.
type State struct {
	// Leader is the leading master, host:port.
	Leader     string
	Frameworks []Framework
	agents     map[string]agent
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
	wire     wireTask
}

// agent is an agent that is registered.
type agent struct{ host, port string }

// Parse reads a state document. What a single task, framework or agent has wrong costs it records and
// nobody else's; a document that is no state at all is an error.
func Parse(document []byte) (*State, error) {
	var w wireState
	err := json.Unmarshal(document, &w)
	if _, odd := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !odd {
		return nil, fmt.Errorf("read the master's state: %w", err)
	}
	_, leader, ok := strings.Cut(w.Leader, "@")
	if !ok || leader == "" {
		return nil, fmt.Errorf("read the master's state: leader %q: %w", w.Leader, ErrNoLeader)
	}
	s := &State{Leader: leader, agents: make(map[string]agent, len(w.Agents))}
	for _, a := range w.Agents {
		host, port, ok := parsePID(a.PID)
		if !ok {
			host, port = a.Hostname, ""
		}
		s.agents[a.ID] = agent{host, port}
	}
	for _, f := range w.Frameworks {
		host, port, ok := parsePID(f.PID)
		if !ok {
			host, port = f.Hostname, ""
		}
		framework := Framework{ID: f.ID, Name: f.Name, host: host, port: port, Tasks: make([]Task, 0, len(f.Tasks))}
		for _, t := range f.Tasks {
			framework.Tasks = append(framework.Tasks, Task{ID: t.ID, Name: t.Name, running: t.State == running, wire: t})
		}
		s.Frameworks = append(s.Frameworks, framework)
	}
	return s, nil
}

// Named tells whether a task has names: it runs, on an agent that the master knows.
func (s *State) Named(t Task) bool {
	_, known := s.agents[t.wire.Agent]
	return known && t.running
}

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

// parsePID takes apart the address of a libprocess actor: id@host:port.
func parsePID(pid string) (host, port string, ok bool) {
	_, at, ok := strings.Cut(strings.Trim(pid, " "), "@")
	if !ok || strings.Contains(at, "@") {
		return "", "", false
	}
	i := strings.LastIndexByte(at, ':')
	if i < 0 {
		return "", "", false
	}
	host, port = at[:i], at[i+1:]
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		if host, ok = strings.CutSuffix(inner, "]"); !ok {
			return "", "", false
		}
	} else if strings.ContainsRune(host, ':') {
		return "", "", false
	}
	_, err := strconv.ParseUint(port, 10, 16)
	return host, port, err == nil && host != ""
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
