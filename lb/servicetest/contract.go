// SPDX-License-Identifier: Apache-2.0

// Package servicetest is the contract of lb.Service as a test: what the engine, the gRPC client and
// the in-memory fake have in common. It leaves the data path to the rooms that have one.
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

	"weft/discovery"
	"weft/lb"
)

// patience is how long anything in the contract may take.
const patience = 30 * time.Second

// RunContract holds a Service to the contract. open returns a new one whose node runs, whose
// networks are prod and dev (neither holding 198.51.100.0/24), and whose masters answer.
func RunContract(t *testing.T, open func(t *testing.T) lb.Service) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(s subject)
	}{
		{"PublishTellsAddressesAndBackends", subject.publishTells},
		{"PublishTwiceIsOneRegistration", subject.publishTwice},
		{"PublishReplaces", subject.publishReplaces},
		{"LabelsHaveOptions", subject.options},
		{"TasksShareAVIP", subject.tasksShare},
		{"LiteralVIPsHaveNoName", subject.literals},
		{"NetworksAreApart", subject.networks},
		{"NodesOwnNetworkIsKnown", subject.inHost},
		{"StateDecides", subject.state},
		{"HealthAtFirst", subject.healthAtFirst},
		{"WithdrawIsIdempotent", subject.withdraw},
		{"InvalidChangesNothing", subject.invalid},
		{"UnknownNetworkIsNotFound", subject.unknownNetwork},
		{"EndedContextIsAnError", subject.endedContext},
		{"ManyAtOnce", subject.manyAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(subject{open(t), t}) })
	}
}

// subject is the Service that is held to the contract, in one test.
type subject struct {
	lb.Service
	t *testing.T
}

// Compare makes cmp.Diff able to compare statuses.
func Compare() cmp.Option { return cmp.Comparer(func(a, b netip.Addr) bool { return a == b }) }

func web(task string) lb.Registration {
	return lb.Registration{
		Task: task, Network: "prod", Framework: "weft",
		Addrs:  []netip.Addr{netip.MustParseAddr("9.0.0.5"), netip.MustParseAddr("fd01:b::5")},
		Labels: []string{"/web:80=8080/tcp"},
	}
}

func (s subject) publishTells() {
	got := s.publish(web("web.1"))
	if len(got) != 1 || len(got[0].Backends) != 1 {
		s.t.Fatalf("%+v, want one VIP with one backend", got)
	}
	vip := got[0]
	want := lb.VIPStatus{
		Key:   lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP},
		Addrs: []netip.Addr{lb.HashAddr4("web.weft"), lb.HashAddr6("web.weft")},
		DNS:   "web.weft.l4lb.thisdcos.directory",
		Backends: []lb.BackendStatus{{
			Backend: lb.Backend{
				VIP: vip.Key, Task: "web.1", Node: vip.Backends[0].Node, Addrs: web("").Addrs, Port: 8080, Weight: 1,
			},
			In: true, Reason: "serving",
		}},
	}
	if d := cmp.Diff(want, vip, Compare()); d != "" {
		s.t.Errorf("(-want +got):\n%s", d)
	}
	if vip.Backends[0].Node == "" {
		s.t.Error("the backend has no node")
	}
	if d := cmp.Diff(got, s.list("prod"), Compare()); d != "" {
		s.t.Errorf("VIPs differ from what Publish told (-publish +vips):\n%s", d)
	}
}

func (s subject) publishTwice() {
	first, second := s.publish(web("web.1")), s.publish(web("web.1"))
	if d := cmp.Diff(first, second, Compare()); d != "" {
		s.t.Errorf("(-first +second):\n%s", d)
	}
	s.expect("", "prod/web.weft:80/tcp web.1")
}

func (s subject) publishReplaces() {
	s.publish(web("web.1"))
	r := web("web.1")
	r.Labels = []string{"/api:80=8080/tcp", "/web:81=8081"}
	s.publish(r)
	s.expect("", "prod/api.weft:80/tcp web.1", "prod/web.weft:81/tcp web.1", "prod/web.weft:81/udp web.1")
	r.Labels = []string{"/api:80=9090/tcp"}
	if got := s.publish(r); got[0].Backends[0].Port != 9090 {
		s.t.Errorf("port %d, want the new one: 9090", got[0].Backends[0].Port)
	}
	r.Labels = nil
	if got := s.publish(r); len(got) != 0 {
		s.t.Errorf("%+v, want no VIP", got)
	}
	s.expect("")
}

func (s subject) options() {
	r := web("web.1")
	r.Labels = []string{"/web:80=8080/tcp,weight=3,policy=round-robin,affinity=1m,prefer=zone"}
	s.publish(r)
	want := lb.Balance{Policy: lb.RoundRobin, Affinity: time.Minute, Prefer: lb.SameZone}
	got := s.list("prod")
	if len(got) != 1 || got[0].Balance != want || got[0].Backends[0].Weight != 3 {
		s.t.Errorf("%+v, want %+v and weight 3", got, want)
	}
}

func (s subject) tasksShare() {
	s.publish(web("web.1"))
	r := web("web.2")
	r.Addrs = []netip.Addr{netip.MustParseAddr("9.0.0.6")}
	got := s.publish(r)
	s.expect("", "prod/web.weft:80/tcp web.1 web.2")
	if len(got) != 1 || len(got[0].Backends) != 1 || got[0].Backends[0].Task != "web.2" {
		s.t.Errorf("%+v, want the task's own backend alone", got)
	}
	if err := s.Withdraw(s.t.Context(), "web.1"); err != nil {
		s.t.Fatal(err)
	}
	vips := s.list("")
	if want := []netip.Addr{lb.HashAddr4("web.weft")}; len(vips) != 1 || !slices.Equal(vips[0].Addrs, want) {
		s.t.Errorf("%+v, want the address of the family that is left: %v", vips, want)
	}
}

func (s subject) literals() {
	r := web("web.1")
	r.Labels = []string{"198.51.100.7:80=8080/tcp", "[fd01:c::5]:80=8080/udp"}
	for _, v := range s.publish(r) {
		if v.DNS != "" || v.Name != "" || !slices.Equal(v.Addrs, []netip.Addr{v.Addr}) {
			s.t.Errorf("%+v, want an address and no name", v)
		}
	}
	s.expect("prod", "prod/198.51.100.7:80/tcp web.1", "prod/[fd01:c::5]:80/udp web.1")
}

func (s subject) networks() {
	s.publish(web("web.1"))
	r := web("web.2")
	r.Network = "dev"
	got := s.publish(r)
	if !slices.Contains(got[0].Addrs, lb.HashAddr4("web.weft")) {
		s.t.Errorf("%v, want the same address in every network", got[0].Addrs)
	}
	s.expect("prod", "prod/web.weft:80/tcp web.1")
	s.expect("dev", "dev/web.weft:80/tcp web.2")
	s.expect("", "dev/web.weft:80/tcp web.2", "prod/web.weft:80/tcp web.1")
	s.expect("nosuch")
}

// inHost publishes tasks in their node's own network, also behind a VIP that a network has.
func (s subject) inHost() {
	r := web("web.1")
	r.Network, r.Addrs = discovery.HostNetwork, []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	r.Labels = append(r.Labels, "198.51.100.7:80=8080/tcp")
	got := s.publish(r)
	if len(got) != 2 || !got[1].Backends[0].In || !slices.Equal(got[1].Addrs, []netip.Addr{lb.HashAddr4("web.weft")}) {
		s.t.Errorf("%+v, want the VIP's address of the node's family, and a backend that is in", got)
	}
	s.publish(web("web.2"))
	s.expect(discovery.HostNetwork, "host/198.51.100.7:80/tcp web.1", "host/web.weft:80/tcp web.1")
	s.expect("prod", "prod/web.weft:80/tcp web.2")
	if _, err := s.SetState(s.t.Context(), "web.1", lb.State{Health: lb.Healthy}); err != nil {
		s.t.Error(err)
	}
	if err := s.Withdraw(s.t.Context(), "web.1"); err != nil {
		s.t.Error(err)
	}
	s.expect("", "prod/web.weft:80/tcp web.2")
	r.Addrs = nil
	if _, err := s.Publish(s.t.Context(), r); !errors.Is(err, lb.ErrInvalid) || !strings.Contains(err.Error(), "no address") {
		s.t.Errorf("%v, want ErrInvalid: the client says where its task is", err)
	}
}

// another is a second task behind the VIP of web, so that the first may be out.
func (s subject) another() {
	r := web("web.2")
	r.Addrs = []netip.Addr{netip.MustParseAddr("9.0.0.6"), netip.MustParseAddr("fd01:b::6")}
	s.publish(r)
}

func (s subject) state() {
	s.publish(web("web.1"))
	s.another()
	const alone, both = "prod/web.weft:80/tcp web.2", "prod/web.weft:80/tcp web.1 web.2"
	for _, step := range []struct {
		state lb.State
		want  string
		says  string
	}{
		{lb.State{Health: lb.Healthy}, both, "serving, healthy"},
		{lb.State{Health: lb.Unhealthy, Detail: "tcp 9.0.0.5:8080: refused"}, alone, "unhealthy: tcp 9.0.0.5:8080: refused"},
		{lb.State{Health: lb.Unknown}, alone, "no check succeeded yet"},
		{lb.State{}, both, "serving"},
		{lb.State{Health: lb.Healthy, Draining: true}, alone, "draining: its task ends"},
		{lb.State{Health: lb.Healthy, Draining: true}, alone, "draining: its task ends"},
	} {
		if late, err := s.SetState(s.t.Context(), "web.1", step.state); err != nil || len(late) > 0 {
			s.t.Fatalf("%+v: late %v, %v", step.state, late, err)
		}
		s.expect("prod", step.want)
		b := s.list("prod")[0].Backends[0]
		if got := (lb.State{Health: b.Health, Detail: b.Detail, Draining: b.Draining}); got != step.state || b.Reason != step.says {
			s.t.Errorf("%+v because %q, want %+v because %q", got, b.Reason, step.state, step.says)
		}
	}
	s.publish(web("web.1"))
	s.expect("prod", both)
	if _, err := s.SetState(s.t.Context(), "nosuch", lb.State{}); !errors.Is(err, lb.ErrNotFound) || !strings.Contains(err.Error(), "nosuch") {
		s.t.Errorf("%v, want ErrNotFound that names the task", err)
	}
	for _, bad := range []lb.State{{Health: "fine"}, {Detail: strings.Repeat("x", lb.MaxDetail+1)}} {
		if _, err := s.SetState(s.t.Context(), "web.1", bad); !errors.Is(err, lb.ErrInvalid) {
			s.t.Errorf("%+v: %v, want ErrInvalid", bad, err)
		}
	}
	s.expect("prod", both)
}

func (s subject) healthAtFirst() {
	s.another()
	r := web("web.1")
	r.Health = lb.Unknown
	if got := s.publish(r); len(got) != 1 || got[0].Backends[0].In {
		s.t.Errorf("%+v, want web.1 out until it is healthy", got)
	}
	r.Check = "tcp:8080"
	if got := s.publish(r); len(got) != 1 || got[0].Backends[0].Check != r.Check {
		s.t.Errorf("%+v, want the check %s", got, r.Check)
	}
	r.Check = strings.Repeat("x", lb.MaxCheck+1)
	if _, err := s.Publish(s.t.Context(), r); !errors.Is(err, lb.ErrInvalid) || !strings.Contains(err.Error(), "check") {
		s.t.Errorf("%v, want ErrInvalid that names the check", err)
	}
	r.Check = ""
	r.Health = "fine"
	if _, err := s.Publish(s.t.Context(), r); !errors.Is(err, lb.ErrInvalid) || !strings.Contains(err.Error(), "fine") {
		s.t.Errorf("%v, want ErrInvalid that names the health", err)
	}
}

func (s subject) withdraw() {
	s.publish(web("web.1"))
	for _, task := range []string{"web.1", "web.1", "nosuch"} {
		if err := s.Withdraw(s.t.Context(), task); err != nil {
			s.t.Errorf("withdraw %s: %v", task, err)
		}
	}
	s.expect("")
}

func (s subject) invalid() {
	s.publish(web("web.1"))
	for _, label := range []string{"/web", "/web:80=70000", "10.1:80=80", "/web:80=80/sctp"} {
		r := web("web.1")
		r.Labels = []string{"/other:80=80", label}
		_, err := s.Publish(s.t.Context(), r)
		if !errors.Is(err, lb.ErrInvalid) || !strings.Contains(err.Error(), label) {
			s.t.Errorf("%q: %v, want ErrInvalid that names the label", label, err)
		}
	}
	s.expect("", "prod/web.weft:80/tcp web.1")
}

func (s subject) unknownNetwork() {
	r := web("web.1")
	r.Network = "nosuch"
	_, err := s.Publish(s.t.Context(), r)
	if !errors.Is(err, lb.ErrNotFound) || !strings.Contains(err.Error(), "nosuch") {
		s.t.Errorf("%v, want ErrNotFound that names the network", err)
	}
	if err != nil && (!strings.Contains(err.Error(), "dev") || !strings.Contains(err.Error(), "prod")) {
		s.t.Errorf("%v, want the networks that there are", err)
	}
	s.expect("")
}

func (s subject) endedContext() {
	ctx, cancel := context.WithCancel(s.t.Context())
	cancel()
	if _, err := s.Publish(ctx, web("web.1")); !errors.Is(err, context.Canceled) {
		s.t.Errorf("publish: %v, want context.Canceled", err)
	}
}

func (s subject) manyAtOnce() {
	var group sync.WaitGroup
	const tasks = 16
	for i := range tasks {
		group.Go(func() {
			r := web(fmt.Sprintf("web.%02d", i))
			r.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{9, 0, 1, byte(i)})}
			for range 3 {
				if _, err := s.Publish(s.t.Context(), r); err != nil {
					s.t.Errorf("publish %s: %v", r.Task, err)
				}
				if i%2 != 0 {
					if err := s.Withdraw(s.t.Context(), r.Task); err != nil {
						s.t.Errorf("withdraw %s: %v", r.Task, err)
					}
				}
			}
		})
	}
	group.Wait()
	want := []string{"prod/web.weft:80/tcp"}
	for i := 0; i < tasks; i += 2 {
		want = append(want, fmt.Sprintf("web.%02d", i))
	}
	s.expect("", strings.Join(want, " "))
}

func (s subject) publish(r lb.Registration) []lb.VIPStatus {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	vips, err := s.Publish(ctx, r)
	if err != nil {
		s.t.Fatal(err)
	}
	return vips
}

func (s subject) list(network string) []lb.VIPStatus {
	s.t.Helper()
	vips, err := s.VIPs(s.t.Context(), network)
	if err != nil {
		s.t.Fatal(err)
	}
	return vips
}

// expect compares the VIPs of a network, each as its key and the tasks that are in.
func (s subject) expect(network string, want ...string) {
	s.t.Helper()
	var got []string
	for _, v := range s.list(network) {
		line := []string{v.String()}
		for _, b := range v.Backends {
			if b.In {
				line = append(line, b.Task)
			}
		}
		got = append(got, strings.Join(line, " "))
	}
	if d := cmp.Diff(want, got); d != "" {
		s.t.Errorf("VIPs of %q (-want +got):\n%s", network, d)
	}
}
