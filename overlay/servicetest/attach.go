// SPDX-License-Identifier: Apache-2.0

package servicetest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
	"weft/overlay"
)

// How a task joins a network, and leaves it.

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

// inHost is a task in the node's own network; its owner is this process, which does not end.
func inHost(id string) overlay.Attachment {
	return overlay.Attachment{
		ID: id, Task: id, Name: id, Network: discovery.HostNetwork, NetNS: "/proc/thread-self/ns/net", OwnerPID: os.Getpid(), OwnerStart: 1,
	}
}

func (s subject) attachInHost() {
	a := inHost("a")
	one := s.attach(a)
	if len(one.Addrs()) == 0 || one.Node == "" || one.Since.IsZero() {
		s.t.Errorf("got %+v, want the node's addresses", one)
	}
	want := overlay.Endpoint{Attachment: a, Node: one.Node, Addr4: one.Addr4, Addr6: one.Addr6, Since: one.Since}
	for _, got := range []overlay.Endpoint{one, s.attach(a)} {
		if diff := cmp.Diff(want, got, Compare()); diff != "" {
			s.t.Errorf("-want +got\n%s", diff)
		}
	}
	b := s.attach(inHost("b"))
	if diff := cmp.Diff(one.Addrs(), b.Addrs(), Compare()); diff != "" {
		s.t.Errorf("tasks of one node differ: -a +b\n%s", diff)
	}
	prod := s.attach(task("c", "prod"))
	if prod.Addr4.String() != "9.0.0.1" {
		s.t.Errorf("got %s, want the first address of prod", prod.Addr4)
	}
	for _, bad := range []struct {
		change func(*overlay.Attachment)
		says   string
	}{
		{func(a *overlay.Attachment) { a.Groups = []string{"web"} }, "groups web"},
		{func(a *overlay.Attachment) { a.Ports = []overlay.PortMapping{{HostPort: 80, Port: 80}} }, "ports 80:80/tcp"},
		{func(a *overlay.Attachment) { a.Fixed = []netip.Addr{netip.MustParseAddr("9.0.0.9")} }, "fixed 9.0.0.9"},
		{func(a *overlay.Attachment) { a.Interface = "eth0" }, `interface "eth0"`},
		{func(a *overlay.Attachment) { a.OwnerPID = 0 }, "owner_pid 0"},
		{func(a *overlay.Attachment) { a.OwnerStart = 0 }, "owner_start 0"},
	} {
		for _, id := range []string{"a", "d"} { // one that is there, and another
			a := inHost(id)
			bad.change(&a)
			_, err := s.Attach(s.context(), a)
			s.refused(err, overlay.ErrInvalid, bad.says)
		}
	}
	if v, err := s.Explain(s.context(), overlay.Question{Source: "c", Destination: "a", Protocol: "tcp", Port: 80}); err != nil || !v.Allowed {
		s.t.Errorf("got %+v, %v, want that a task and its own node may talk", v, err)
	}
	if err := s.Detach(s.context(), "a"); err != nil {
		s.t.Fatal(err)
	}
	list, err := s.Endpoints(s.context())
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff([]overlay.Endpoint{b, prod}, list, Compare()); diff != "" {
		s.t.Errorf("endpoints: -want +got\n%s", diff)
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
