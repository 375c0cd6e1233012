// SPDX-License-Identifier: Apache-2.0

// Package servicetest is the contract of overlay.Service as a test: what the engine, the gRPC client
// and the in-memory fake have in common. It leaves the data path to the rooms that have one.
package servicetest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/overlay"
)

// patience is how long anything in the contract may take.
const patience = 30 * time.Second

// Node is a Service whose node runs and whose masters answer.
type Node struct {
	overlay.Service
	// Drop makes the node report that it dropped a packet for no_common_group, in prod, from 9.0.0.1
	// port 40000 to 9.0.0.2 port 80 over TCP, 74 bytes long.
	Drop func()
}

// Networks are those that the masters of a Node have declared.
func Networks() []overlay.Network {
	p := netip.MustParsePrefix
	return []overlay.Network{
		{Name: "dev", VNI: 1, Subnet4: p("9.1.0.0/16"), Ungrouped: overlay.UngroupedOpen},
		{Name: "prod", VNI: 2, Subnet4: p("9.0.0.0/16"), Subnet6: p("fd01:b::/64")},
		{Name: "six", VNI: 3, Subnet6: p("fd01:e::/64")},
		{Name: "tiny", VNI: 4, Subnet4: p("9.2.0.0/29"), Block4: 30},
	}
}

// Groups are those that the masters of a Node have declared.
func Groups() []overlay.Group {
	return []overlay.Group{{Network: "prod", Name: "web"}, {Network: "prod", Name: "db"}, {Network: "dev", Name: "web"}}
}

// Rules are those that the masters of a Node have declared.
func Rules() []overlay.Rule {
	return []overlay.Rule{{
		ID: 7, Network: "prod", From: "web", To: "db", Protocol: "tcp", Action: overlay.Allow,
		Ports: []overlay.PortRange{{First: 5432, Last: 5432}},
	}}
}

// RunContract holds a Service to the contract. open returns a new Node.
func RunContract(t *testing.T, open func(t *testing.T) Node) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(s subject)
	}{
		{"AttachGivesTheLowestAddresses", subject.attachGives},
		{"AttachTwiceIsOneAttachment", subject.attachTwice},
		{"AttachWithOtherContentsIsAConflict", subject.attachOther},
		{"AttachWithOtherGroupsMovesTheTask", subject.attachRegroups},
		{"AttachTellsWhatIsAllowed", subject.attachInvalid},
		{"PortsOfTheNodeLeadToOneTask", subject.attachPorts},
		{"AFixedAddressIsGivenOrRefused", subject.attachFixed},
		{"ATaskInTheNodesNetworkHasItsAddresses", subject.attachInHost},
		{"DetachGivesBackAndIsIdempotent", subject.detach},
		{"EndpointsAreSortedAndWhole", subject.endpoints},
		{"SameGroupsSameIdentity", subject.identities},
		{"NetworksTellThisNodesPart", subject.networks},
		{"AFullNetworkIsExhausted", subject.exhausted},
		{"ManyAtOnceShareNoAddress", subject.manyAtOnce},
		{"ExplainNamesTasksGroupsAndRules", subject.explain},
		{"ExplainRefusesBadQuestions", subject.explainInvalid},
		{"EventsReachEveryReader", subject.events},
		{"EventsEndWithTheReader", subject.eventsEnd},
		{"EndedContextIsAnError", subject.endedContext},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(subject{open(t), t}) })
	}
}

// subject is the Node that is held to the contract, in one test.
type subject struct {
	Node
	t *testing.T
}

// Compare makes cmp.Diff able to compare the nouns.
func Compare() cmp.Option {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

func task(id, network string, groups ...string) overlay.Attachment {
	return overlay.Attachment{ID: id, Task: id, Name: id, Network: network, Groups: groups, NetNS: "/run/netns/" + id}
}

func (s subject) context() context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

func (s subject) attach(a overlay.Attachment) overlay.Endpoint {
	s.t.Helper()
	e, err := s.Attach(s.context(), a)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// refused checks that err is of the kind wanted and says every word.
func (s subject) refused(err, kind error, words ...string) {
	s.t.Helper()
	if !errors.Is(err, kind) {
		s.t.Errorf("got %v, want %v", err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			s.t.Errorf("got %q, want it to say %q", err, w)
		}
	}
}
