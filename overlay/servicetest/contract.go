// SPDX-License-Identifier: Apache-2.0

// Package servicetest is the contract of overlay.Service as a test: what the engine, the gRPC client
// and the in-memory fake have in common. It leaves the data path to the rooms that have one.
package servicetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
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

func (s subject) attachGives() {
	for _, want := range []struct {
		id, network, addr4, addr6, mac string
		vni                            overlay.VNI
	}{
		{"a", "prod", "9.0.0.1", "fd01:b::1", "0a:58:09:00:00:01", 2},
		{"b", "prod", "9.0.0.2", "fd01:b::2", "0a:58:09:00:00:02", 2},
		{"c", "dev", "9.1.0.1", "", "0a:58:09:01:00:01", 1},
		{"d", "six", "", "fd01:e::1", "0a:58:00:00:00:01", 3},
	} {
		before := time.Now().Add(-time.Second)
		e := s.attach(task(want.id, want.network))
		addr := func(a netip.Addr) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}
		if addr(e.Addr4) != want.addr4 || addr(e.Addr6) != want.addr6 || e.MAC != want.mac || e.VNI != want.vni {
			s.t.Errorf("%s: got %s %s %s vni %d, want %+v", want.id, addr(e.Addr4), addr(e.Addr6), e.MAC, e.VNI, want)
		}
		if e.Interface != "eth0" || e.Node == "" || e.HostInterface == "" || e.Cookie == 0 || e.MTU < 1280 || e.Since.Before(before) {
			s.t.Errorf("%s: got %+v, want every field filled", want.id, e)
		}
	}
}

func (s subject) attachTwice() {
	a := task("a", "prod", "web", "db")
	one := s.attach(a)
	a.Groups = []string{"db", "web", "db"}
	if diff := cmp.Diff(one, s.attach(a), Compare()); diff != "" {
		s.t.Errorf("-first +second\n%s", diff)
	}
	if list, err := s.Endpoints(s.context()); err != nil || len(list) != 1 {
		s.t.Errorf("got %d endpoints, %v, want 1", len(list), err)
	}
}

func (s subject) attachOther() {
	one := s.attach(task("a", "prod", "web"))
	other := task("a", "prod", "web")
	other.NetNS = "/run/netns/b"
	_, err := s.Attach(s.context(), other)
	s.refused(err, overlay.ErrConflict, "a", "attached already")
	_, err = s.Attach(s.context(), task("a", "dev"))
	s.refused(err, overlay.ErrConflict)
	list, err := s.Endpoints(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff([]overlay.Endpoint{one}, list, Compare()); diff != "" {
		s.t.Errorf("a refused attachment changed something: -want +got\n%s", diff)
	}
}

func (s subject) attachRegroups() {
	before, db := s.attach(task("a", "prod", "web")), s.attach(task("db", "prod", "db"))
	after := s.attach(task("a", "prod", "db"))
	want := before
	want.Groups, want.Identity = []string{"db"}, db.Identity
	if diff := cmp.Diff(want, after, Compare()); diff != "" {
		s.t.Errorf("more than the groups changed: -want +got\n%s", diff)
	}
	_, err := s.Attach(s.context(), task("a", "prod", "nogroup"))
	s.refused(err, overlay.ErrNotFound, "nogroup")
	list, err := s.Endpoints(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff([]overlay.Endpoint{after, db}, list, Compare()); diff != "" {
		s.t.Errorf("endpoints: -want +got\n%s", diff)
	}
	if v, err := s.Explain(s.context(), overlay.Question{Source: "a", Destination: "db", Protocol: "tcp", Port: 80}); err != nil || !v.Allowed {
		s.t.Errorf("got %+v, %v, want that they may talk", v, err)
	}
	if bare := s.attach(task("a", "prod")); bare.Identity != 3 || len(bare.Groups) != 0 {
		s.t.Errorf("got identity %d, groups %v, want the ungrouped", bare.Identity, bare.Groups)
	}
}

func (s subject) attachPorts() {
	web := task("web", "prod")
	web.Ports = []overlay.PortMapping{
		{HostPort: 8080, Port: 80}, {HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 53, Port: 5353, Protocol: "udp"},
	}
	want := web.Normal()
	if e := s.attach(web); !e.Same(want) {
		s.t.Errorf("got %v, want %v", e.Ports, want.Ports)
	}
	other := task("other", "prod")
	other.Ports = []overlay.PortMapping{{HostPort: 8080, Port: 81}}
	_, err := s.Attach(s.context(), other)
	s.refused(err, overlay.ErrConflict, "8080:81/tcp", "task web already")
	other.Ports[0].HostPort = 0
	_, err = s.Attach(s.context(), other)
	s.refused(err, overlay.ErrInvalid, "host_port is 0")
	other.Ports[0] = overlay.PortMapping{HostPort: 8080, Port: 80, Protocol: "udp"}
	s.attach(other)
}

func (s subject) attachInvalid() {
	_, err := s.Attach(s.context(), task("a", "staging"))
	s.refused(err, overlay.ErrNotFound, `"staging"`, "dev, prod, six, tiny")
	_, err = s.Attach(s.context(), task("a", "prod", "webb"))
	s.refused(err, overlay.ErrNotFound, `"webb"`, "db", "web", "public")
	_, err = s.Attach(s.context(), task("a", "dev", "db"))
	s.refused(err, overlay.ErrNotFound, `"db"`)
	_, err = s.Attach(s.context(), overlay.Attachment{ID: "a", Task: "a", Network: "prod", NetNS: "relative"})
	s.refused(err, overlay.ErrInvalid, `netns "relative"`, "absolute")
	_, err = s.Attach(s.context(), task("a b", "prod"))
	s.refused(err, overlay.ErrInvalid, `"a b"`)
	if e := s.attach(task("p", "prod", overlay.GroupPublic)); e.Addr4.String() != "9.0.0.1" {
		s.t.Errorf("got %s: refused attachments hold addresses", e.Addr4)
	}
}

func (s subject) detach() {
	one := s.attach(task("a", "prod"))
	s.attach(task("b", "prod"))
	for range 2 {
		if err := s.Detach(s.context(), "a"); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.Detach(s.context(), "nobody"); err != nil {
		s.t.Errorf("got %v, want no error", err)
	}
	list, err := s.Endpoints(s.context())
	if err != nil || len(list) != 1 || list[0].ID != "b" {
		s.t.Errorf("got %v, %v, want b only", list, err)
	}
	again := s.attach(task("c", "prod"))
	if again.Addr4 != one.Addr4 || again.Addr6 != one.Addr6 {
		s.t.Errorf("got %v, want the addresses that a had", again.Addrs())
	}
}

func (s subject) endpoints() {
	if list, err := s.Endpoints(s.context()); err != nil || len(list) != 0 {
		s.t.Errorf("got %v, %v, want none", list, err)
	}
	a := task("b", "prod", "web")
	a.Interface, a.OwnerPID, a.OwnerStart, a.Cgroup = "eth1", 0, 0, "/weft/b"
	want := []overlay.Endpoint{s.attach(task("a", "dev")), s.attach(a), s.attach(task("c", "prod"))}
	list, err := s.Endpoints(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(want, list, Compare()); diff != "" {
		s.t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff(a, list[1].Attachment); diff != "" {
		s.t.Errorf("the attachment is not as it was asked: -want +got\n%s", diff)
	}
}

func (s subject) identities() {
	web, db := s.attach(task("web-1", "prod", "web")), s.attach(task("db-1", "prod", "db"))
	both, same := s.attach(task("both-1", "prod", "web", "db")), s.attach(task("web-2", "prod", "web"))
	bare, other := s.attach(task("bare-1", "prod")), s.attach(task("web-3", "dev", "web"))
	if web.Identity != same.Identity || web.Identity == db.Identity || both.Identity == web.Identity || both.Identity == db.Identity {
		s.t.Errorf("got web %d and %d, db %d, both %d", web.Identity, same.Identity, db.Identity, both.Identity)
	}
	// 16 and up are sets of groups; 3 stands for none (bpf/src/shared/task.h).
	if bare.Identity != 3 || other.Identity < 16 || web.Identity < 16 {
		s.t.Errorf("got bare %d, web of dev %d, web %d", bare.Identity, other.Identity, web.Identity)
	}
}

func (s subject) networks() {
	s.attach(task("a", "tiny"))
	list, err := s.Networks(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, n := range list {
		names = append(names, n.Name)
	}
	if diff := cmp.Diff([]string{"dev", "prod", "six", "tiny"}, names); diff != "" {
		s.t.Fatalf("-want +got\n%s", diff)
	}
	prod, tiny := list[1], list[3]
	if diff := cmp.Diff(Networks()[1].Normal(), prod.Network, Compare()); diff != "" {
		s.t.Errorf("prod: -want +got\n%s", diff)
	}
	if diff := cmp.Diff([]string{"db", "web"}, prod.Groups); diff != "" {
		s.t.Errorf("groups of prod: -want +got\n%s", diff)
	}
	if prod.Used != 0 || prod.Free != 0 || len(prod.Blocks) != 0 {
		s.t.Errorf("got used %d, free %d, blocks %v of prod, want none", prod.Used, prod.Free, prod.Blocks)
	}
	if tiny.Used != 1 || len(tiny.Blocks) == 0 || tiny.Free != 2*len(tiny.Blocks)-1 || tiny.Blocks[0].Prefix.String() != "9.2.0.0/30" {
		s.t.Errorf("got used %d, free %d, blocks %v of tiny", tiny.Used, tiny.Free, tiny.Blocks)
	}
}

func (s subject) exhausted() {
	for i := range 4 { // two blocks of two addresses
		s.attach(task(fmt.Sprint("t", i), "tiny"))
	}
	_, err := s.Attach(s.context(), task("t4", "tiny"))
	s.refused(err, overlay.ErrExhausted, "9.2.0.0/29")
	if err := s.Detach(s.context(), "t2"); err != nil {
		s.t.Fatal(err)
	}
	if e := s.attach(task("t4", "tiny")); e.Addr4.String() != "9.2.0.5" {
		s.t.Errorf("got %s, want the address given back", e.Addr4)
	}
}

func (s subject) manyAtOnce() {
	const tasks = 40
	var wg sync.WaitGroup
	got := make([]overlay.Endpoint, tasks)
	ctx := s.context()
	for i := range got {
		wg.Go(func() {
			var err error
			// Each twice: callers try again.
			for range 2 {
				if got[i], err = s.Attach(ctx, task(fmt.Sprint("t", i), "prod", "web")); err != nil {
					s.t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[netip.Addr]string)
	for _, e := range got {
		for _, a := range e.Addrs() {
			if other, taken := seen[a]; taken {
				s.t.Errorf("%s and %s both have %s", e.ID, other, a)
			}
			seen[a] = e.ID
		}
	}
	if list, err := s.Endpoints(ctx); err != nil || len(list) != tasks || len(seen) != 2*tasks {
		s.t.Errorf("got %d endpoints, %d addresses, %v", len(list), len(seen), err)
	}
}

func (s subject) explain() {
	s.attach(task("web-1", "prod", "web"))
	s.attach(task("web-2", "prod", "web"))
	s.attach(task("db-1", "prod", "db"))
	s.attach(task("lone", "dev"))
	for _, row := range []struct {
		src, dst string
		port     uint16
		allowed  bool
		reason   string
		words    []string
		rule     overlay.RuleID
		help     string
	}{
		{"web-1", "web-2", 80, true, "delivered", []string{"web-1 (9.0.0.1)", "web-2 (9.0.0.2)", "group web"}, 0, ""},
		{"web-1", "db-1", 5432, true, "delivered", []string{"rule 7", "db-1"}, 7, ""},
		{"web-1", "9.0.0.3", 80, false, "no_common_group", []string{"group web", "group db", "rule 7 lets it on tcp/5432 only"}, 0, "weft rule add prod --from web --to db --port tcp/80"},
		{"web-1", "9.1.0.1", 80, false, "other_network", []string{"prod", "dev"}, 0, "run both in one network: weft run --network dev"},
		{"world", "web-1", 80, false, "not_public", []string{"world", "web-1"}, 0, "weft rule add prod --from world --to web --port tcp/80"},
	} {
		v, err := s.Explain(s.context(), overlay.Question{Source: row.src, Destination: row.dst, Protocol: "tcp", Port: row.port})
		if err != nil {
			s.t.Errorf("%s to %s: %v", row.src, row.dst, err)
			continue
		}
		if v.Allowed != row.allowed || v.Reason != row.reason || v.Rule != row.rule || v.Suggestion != row.help {
			s.t.Errorf("%s to %s: got %+v", row.src, row.dst, v)
		}
		for _, w := range row.words {
			if !strings.Contains(v.Text, w) {
				s.t.Errorf("%s to %s: got %q, want it to say %q", row.src, row.dst, v.Text, w)
			}
		}
		if v.Source.ID != "" && v.Source.ID != row.src || v.Destination.ID == "" {
			s.t.Errorf("%s to %s: got endpoints %q, %q", row.src, row.dst, v.Source.ID, v.Destination.ID)
		}
	}
}

func (s subject) explainInvalid() {
	s.attach(task("web-1", "prod", "web"))
	ask := func(src, dst, proto string, port uint16) error {
		_, err := s.Explain(s.context(), overlay.Question{Source: src, Destination: dst, Protocol: proto, Port: port})
		return err
	}
	s.refused(ask("web-1", "web-9", "tcp", 80), overlay.ErrNotFound, "destination", `"web-9"`)
	s.refused(ask("web-9", "web-1", "tcp", 80), overlay.ErrNotFound, "source", `"web-9"`)
	s.refused(ask("web-1", "web-1", "sctp", 80), overlay.ErrInvalid, "tcp, udp and icmp")
	s.refused(ask("web-1", "web-1", "tcp", 0), overlay.ErrInvalid, "1 to 65535")
}

// readEvents reads n events in the background, and drops packets until every reader has them.
func (s subject) readEvents(readers, n int) [][]overlay.Event {
	enough := errors.New("enough")
	got := make([][]overlay.Event, readers)
	var wg sync.WaitGroup
	ctx := s.context()
	for i := range got {
		wg.Go(func() {
			err := s.Events(ctx, overlay.Filter{}, func(e overlay.Event) error {
				if got[i] = append(got[i], e); len(got[i]) == n {
					return enough
				}
				return nil
			})
			if !errors.Is(err, enough) {
				s.t.Errorf("got %v, want what emit returned", err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	// A reader gets what comes after it began: go on until all have.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return got
		case <-tick.C:
			s.Drop()
		}
	}
}

func (s subject) events() {
	web, db := s.attach(task("web-1", "prod", "web")), s.attach(task("db-1", "prod", "db"))
	want := overlay.Event{
		Reason: "no_common_group", Drop: true, Network: "prod", Protocol: "tcp", Length: 74,
		Source: netip.AddrPortFrom(web.Addr4, 40000), Destination: netip.AddrPortFrom(db.Addr4, 80),
		SourceTask: "web-1", DestTask: "db-1", SourceGroups: []string{"web"}, DestGroups: []string{"db"}, Packets: 1, Node: web.Node,
		Owner: "operator of network prod", Suggestion: "weft rule add prod --from web --to db --port tcp/80",
	}
	for _, events := range s.readEvents(3, 2) {
		for _, e := range events {
			if since := time.Since(e.Time); since < 0 || since > patience || !strings.Contains(e.Text, "web-1 (9.0.0.1)") {
				s.t.Errorf("got %q at %v", e.Text, e.Time)
			}
			e.Time, e.Text = time.Time{}, ""
			if diff := cmp.Diff(want, e, Compare(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				s.t.Fatalf("-want +got\n%s", diff)
			}
		}
	}
}

func (s subject) eventsEnd() {
	ctx, cancel := context.WithCancel(s.context())
	ended := make(chan error, 1)
	go func() { ended <- s.Events(ctx, overlay.Filter{}, func(overlay.Event) error { return nil }) }()
	cancel()
	select {
	case err := <-ended:
		s.refused(err, context.Canceled)
	case <-time.After(patience):
		s.t.Error("Events goes on after its context has ended")
	}
}

func (s subject) endedContext() {
	s.attach(task("a", "prod"))
	ctx, cancel := context.WithCancel(s.t.Context())
	cancel()
	_, err := s.Attach(ctx, task("b", "prod"))
	s.refused(err, context.Canceled)
	list, err := s.Endpoints(s.context())
	if err != nil || !slices.ContainsFunc(list, func(e overlay.Endpoint) bool { return e.ID == "a" }) || len(list) != 1 {
		s.t.Errorf("got %v, %v, want a only", list, err)
	}
}

// Reporter hands events to whoever reads them; fake.Service is one.
type Reporter interface {
	overlay.Service
	Report(e overlay.Event)
}

// Report is Drop for a Service that is told its events, with what Explain says of the packet.
func Report(r Reporter) {
	src, dst := netip.MustParseAddrPort("9.0.0.1:40000"), netip.MustParseAddrPort("9.0.0.2:80")
	v, err := r.Explain(context.Background(), overlay.Question{
		Source: src.Addr().String(), Destination: dst.Addr().String(), Protocol: "tcp", Port: dst.Port(),
	})
	if err != nil {
		return
	}
	r.Report(overlay.Event{
		Time: time.Now(), Reason: v.Reason, Text: v.Text, Drop: !v.Allowed, Network: v.Source.Network, Source: src, Destination: dst,
		SourceTask: v.Source.Name, DestTask: v.Destination.Name, SourceGroups: v.Source.Groups, DestGroups: v.Destination.Groups,
		Node: v.Source.Node, Packets: 1, Protocol: "tcp", Length: 74, Owner: v.Owner, Suggestion: v.Suggestion,
	})
}
