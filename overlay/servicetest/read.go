// SPDX-License-Identifier: Apache-2.0

package servicetest

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/overlay"
)

// What a node tells: its endpoints and networks, why, and what it dropped.

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
