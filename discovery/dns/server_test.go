// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"
	"go.uber.org/goleak"

	"weft/discovery/dns/dnstest"
	"weft/discovery/zone"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	addrs   = dnstest.Addrs
	task    = dnstest.Task
	gone    = dnstest.Gone
	service = dnstest.Service
	network = dnstest.Network
	values  = dnstest.Values
	views   = dnstest.Views()
)

// sample has tasks in networks whose addresses are loopback addresses, so that a socket bound to
// 127.1.x.x is a task of prod and one bound to 127.2.x.x is one of dev.
func sample() []zone.Change {
	changes := []zone.Change{
		network("prod", 100, "127.1.0.0/16"),
		network("dev", 101, "127.2.0.0/16"),
		task("t1", "web", "127.1.0.2", "fd01:b::2"),
		task("t2", "web", "127.1.0.3"),
		service("prod", "web.weft", "11.0.0.7"),
	}
	for i := range 60 {
		changes = append(changes, task(fmt.Sprint("many-", i), "many", fmt.Sprintf("127.1.1.%d", i+1)))
	}
	return changes
}

type fixture struct {
	*Server
	t      *testing.T
	z      *zone.Zone
	addr   string
	cancel context.CancelFunc
	done   chan error
}

func start(t *testing.T, o Options, changes []zone.Change) *fixture {
	t.Helper()
	if o.Listen == nil {
		o.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.7:0")}
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &fixture{Server: s, t: t, addr: s.Addrs()[0].String(), cancel: cancel, done: make(chan error, 1)}
	go func() { f.done <- s.Run(ctx) }()
	t.Cleanup(f.stop)
	f.z = zone.New(zone.Options{Servers: addrs("198.51.100.1")}).Completed()
	f.change(changes...)
	return f
}

func (f *fixture) stop() {
	if f.cancel == nil {
		return
	}
	f.cancel()
	f.cancel = nil
	if err := <-f.done; err != nil {
		f.t.Errorf("Run: %v", err)
	}
}

func (f *fixture) change(changes ...zone.Change) {
	next, diff := f.z.With(changes)
	f.z = next
	f.SetZone(next, diff)
}

// ask asks over UDP, or TCP, from an address (empty: any).
func (f *fixture) ask(m *wire.Msg, transport, from string) *wire.Msg {
	f.t.Helper()
	c := wire.Client{Net: transport, UDPSize: 4096}
	if from != "" {
		c.Dialer = dialFrom(transport, from)
	}
	r, _, err := c.Exchange(m, f.addr)
	if err != nil {
		f.t.Fatalf("ask %s: %v", m.Question[0].String(), err)
	}
	return r
}

func (f *fixture) query(name string, qtype uint16) *wire.Msg {
	f.t.Helper()
	return f.ask(new(wire.Msg).SetQuestion(name, qtype), "udp", "")
}

func TestAnswersOverUDP(t *testing.T) {
	f := start(t, Options{}, sample())
	check := func(name string, qtype uint16, rcode int, answer, ns, extra []string) {
		t.Helper()
		r := f.query(name, qtype)
		if r.Rcode != rcode || !r.Authoritative || r.RecursionAvailable || r.Truncated {
			t.Errorf("%s %s: rcode %s aa %t ra %t tc %t", name, wire.Type(qtype), wire.RcodeToString[r.Rcode],
				r.Authoritative, r.RecursionAvailable, r.Truncated)
		}
		got := [][]string{values(r.Answer), values(r.Ns), values(r.Extra)}
		for i, w := range [][]string{answer, ns, extra} {
			if !slices.Equal(got[i], w) {
				t.Errorf("%s %s section %d = %q, want %q", name, wire.Type(qtype), i, got[i], w)
			}
		}
		for _, rr := range r.Answer {
			if rr.Header().Name != name {
				t.Errorf("owner %s, want %s as it was asked", rr.Header().Name, name)
			}
		}
	}
	ok, missing := wire.RcodeSuccess, wire.RcodeNameError
	soa := []string{"ns1.mesos. root.ns1.mesos. 1 60 600 86400 1"}
	check("web.weft.mesos.", wire.TypeA, ok, []string{"127.1.0.2", "127.1.0.3"}, nil, nil)
	check("WeB.weft.MESOS.", wire.TypeAAAA, ok, []string{"fd01:b::2"}, nil, nil)
	check("web.weft.mesos.", wire.TypeTXT, ok, nil, soa, nil)
	check("weft.mesos.", wire.TypeA, ok, nil, soa, nil)
	check("nothing.weft.mesos.", wire.TypeA, missing, nil, soa, nil)
	check("_web._tcp.weft.mesos.", wire.TypeSRV, ok,
		[]string{"0 1 80 web-fjp7y-a.weft.mesos.", "0 1 80 web-hw4uo-a.weft.mesos."}, nil,
		[]string{"127.1.0.2", "127.1.0.3", "fd01:b::2"})
	check("2.0.1.127.in-addr.arpa.", wire.TypePTR, ok, []string{"web.weft.mesos."}, nil, nil)
	check("9.9.1.127.in-addr.arpa.", wire.TypePTR, missing, nil, soa, nil)
	check("mesos.", wire.TypeNS, ok, []string{"ns1.mesos."}, nil, []string{"198.51.100.1"})
	check("mesos.", wire.TypeSOA, ok, soa, nil, nil)
	check("1.127.in-addr.arpa.", wire.TypeSOA, ok, soa, nil, nil)
	check("web.weft.l4lb.thisdcos.directory.", wire.TypeA, ok, []string{"11.0.0.7"}, nil, nil)
	check("web.weft.mesos.", wire.TypeANY, ok, []string{"127.1.0.2", "127.1.0.3", "fd01:b::2"}, nil, nil)
	if got := f.query("nothing.mesos.", wire.TypeA).Ns[0].Header(); got.Name != "mesos." || got.Ttl != 1 {
		t.Errorf("SOA of a missing name = %v, want mesos. with TTL 1", got)
	}
}

func TestAnswersRotate(t *testing.T) {
	f := start(t, Options{}, sample())
	first := map[string]bool{}
	for range 200 {
		r := f.query("web.weft.mesos.", wire.TypeA)
		first[values(r.Answer[:1])[0]] = true
	}
	if len(first) != 2 {
		t.Errorf("first answers of 200 = %v, want both", first)
	}
}

// Whoever answers: the server, its memory or the kernel.
func TestFixedAnswersDoNotRotate(t *testing.T) {
	k := dnstest.NewKernel()
	f := start(t, Options{Cache: k, Fixed: true}, sample())
	first := map[string]bool{}
	for i := range 200 {
		m := new(wire.Msg).SetQuestion("many.weft.mesos.", wire.TypeA).SetEdns0(maxUDP, false)
		transport := "udp"
		if i%4 == 0 {
			transport = "tcp"
		}
		first[f.ask(m, transport, "").Answer[0].String()] = true
	}
	f.resident(1)
	if a, there := k.Get(0, "many.weft.mesos.", wire.TypeA); len(first) != 1 || !there || a.Rotate != 0 {
		t.Errorf("first answers of 200 = %v, want one; in the kernel %t, where it turns %d bytes", first, there, a.Rotate)
	}
}

func TestViewIsThatOfTheAskersAddress(t *testing.T) {
	f := start(t, Options{}, sample())
	for from, want := range map[string]int{"127.1.0.2": 1, "127.2.0.2": 0, "127.0.0.1": 1} {
		for _, transport := range []string{"udp", "tcp"} {
			m := new(wire.Msg).SetQuestion("web.weft.l4lb.thisdcos.directory.", wire.TypeA)
			r := f.ask(m, transport, from)
			if len(r.Answer) != want || r.Rcode != wire.RcodeSuccess {
				t.Errorf("from %s over %s: %d answers, %s, want %d", from, transport, len(r.Answer), wire.RcodeToString[r.Rcode], want)
			}
		}
	}
}

func TestSizeOfTheAskerIsKept(t *testing.T) {
	f := start(t, Options{}, sample())
	check := func(edns uint16, transport string, answers int, truncated bool) {
		t.Helper()
		m := new(wire.Msg).SetQuestion("many.weft.mesos.", wire.TypeA)
		if edns > 0 {
			m.SetEdns0(edns, true)
		}
		r := f.ask(m, transport, "")
		if len(r.Answer) != answers || r.Truncated != truncated {
			t.Errorf("edns %d %s: %d answers, tc %t, want %d, %t", edns, transport, len(r.Answer), r.Truncated, answers, truncated)
		}
		if opt := r.IsEdns0(); (opt != nil) != (edns > 0) || opt != nil && (opt.UDPSize() != maxUDP || !opt.Do()) {
			t.Errorf("edns %d: reply has %v", edns, opt)
		}
	}
	check(0, "udp", 29, true)   // 12 + 22 + 29 * 16 = 498
	check(100, "udp", 29, true) // RFC 6891: less than 512 is 512; with OPT 509
	check(900, "udp", 53, true)
	check(4096, "udp", 60, false)
	check(0, "tcp", 60, false)
}

// Additional records go before the answer is cut.
func TestAdditionalRecordsGoFirst(t *testing.T) {
	f := start(t, Options{}, []zone.Change{
		task("t1", "web", "127.1.0.1", "fd01::1"), task("t2", "web", "127.1.0.2", "fd01::2"),
		task("t3", "web", "127.1.0.3", "fd01::3"), task("t4", "web", "127.1.0.4", "fd01::4"),
		task("t5", "web", "127.1.0.5", "fd01::5"), task("t6", "web", "127.1.0.6", "fd01::6"),
	})
	m := new(wire.Msg).SetQuestion("_web._tcp.weft.mesos.", wire.TypeSRV)
	if r := f.ask(m, "udp", ""); len(r.Answer) != 6 || len(r.Extra) != 0 || r.Truncated {
		t.Errorf("got %d answers, %d additional, tc %t, want 6, 0, false", len(r.Answer), len(r.Extra), r.Truncated)
	}
	if r := f.ask(m, "tcp", ""); len(r.Answer) != 6 || len(r.Extra) != 12 {
		t.Errorf("over TCP %d answers, %d additional, want 6, 12", len(r.Answer), len(r.Extra))
	}
}

func TestRefusals(t *testing.T) {
	f := start(t, Options{}, sample())
	check := func(want int, change func(*wire.Msg)) {
		t.Helper()
		m := new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA)
		change(m)
		r := f.ask(m, "udp", "")
		if r.Rcode != want || len(r.Answer) != 0 || r.Id != m.Id {
			t.Errorf("%v: %s, want %s", m.MsgHdr, wire.RcodeToString[r.Rcode], wire.RcodeToString[want])
		}
	}
	check(wire.RcodeNotImplemented, func(m *wire.Msg) { m.Opcode = wire.OpcodeNotify })
	check(wire.RcodeNotImplemented, func(m *wire.Msg) { m.Opcode = wire.OpcodeUpdate })
	check(wire.RcodeRefused, func(m *wire.Msg) { m.Question[0].Qclass = wire.ClassCHAOS })
	check(wire.RcodeRefused, func(m *wire.Msg) { m.Question[0].Qtype = wire.TypeAXFR })
	check(wire.RcodeBadVers, func(m *wire.Msg) { m.SetEdns0(1232, false).IsEdns0().SetVersion(1) })
	check(wire.RcodeFormatError, func(m *wire.Msg) { m.Question = slices.Repeat(m.Question, maxQuestions+1) })
	check(wire.RcodeNotImplemented, func(m *wire.Msg) { m.Opcode, m.Question = wire.OpcodeUpdate, slices.Repeat(m.Question, 2) })
	check(wire.RcodeFormatError, func(m *wire.Msg) { m.Opcode, m.Question = wire.OpcodeNotify, slices.Repeat(m.Question, 2) })
	check(wire.RcodeServerFailure, func(m *wire.Msg) { m.Question[0].Name = "example.com." }) // no resolvers
}

func TestManyQuestionsOnOneConnection(t *testing.T) {
	f := start(t, Options{}, sample())
	c := wire.Client{Net: "tcp"}
	conn, err := c.Dial(f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for i := range 300 {
		r, _, err := c.ExchangeWithConn(new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA), conn)
		if err != nil || len(r.Answer) != 2 {
			t.Fatalf("question %d: %v, %v", i, r, err)
		}
	}
}

// What the node does not know may exist as long as it has not heard all.
func TestNoNameIsMissingBeforeTheZoneIsComplete(t *testing.T) {
	f := start(t, Options{}, nil)
	next, diff := zone.New(zone.Options{}).With(sample())
	f.SetZone(next, diff)
	m := new(wire.Msg).SetQuestion("other.weft.mesos.", wire.TypeA)
	m.SetEdns0(1232, false)
	r := f.ask(m, "udp", "")
	ede, _ := slices.DeleteFunc(r.IsEdns0().Option, func(o wire.EDNS0) bool { return o.Option() != wire.EDNS0EDE })[0].(*wire.EDNS0_EDE)
	if r.Rcode != wire.RcodeServerFailure || r.Authoritative || ede.InfoCode != wire.ExtendedErrorCodeNotReady {
		t.Errorf("unknown name before: %v, want SERVFAIL, not ready", r)
	}
	if r := f.query("web.weft.mesos.", wire.TypeA); len(r.Answer) != 2 || !r.Authoritative {
		t.Errorf("known name before: %v, want 2 answers", r)
	}
	if r := f.query("web.weft.mesos.", wire.TypeTXT); r.Rcode != wire.RcodeSuccess {
		t.Errorf("known name, other type before: %v, want NOERROR", r)
	}
	f.SetZone(next.Completed(), zone.Diff{})
	if r := f.query("other.weft.mesos.", wire.TypeA); r.Rcode != wire.RcodeNameError {
		t.Errorf("unknown name after: %v, want NXDOMAIN", r)
	}
	if got := f.Stats(); got.Unready != 1 || got.Missing != 1 {
		t.Errorf("stats = %+v, want 1 unready, 1 missing", got)
	}
}

func TestAddressInUseIsNamed(t *testing.T) {
	f := start(t, Options{}, nil)
	_, err := Open(Options{Listen: f.Addrs()})
	if err == nil || !strings.Contains(err.Error(), f.addr) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Open at a taken address: %v, want an error with %s", err, f.addr)
	}
	if _, err := Open(Options{}); err == nil || !strings.Contains(err.Error(), "listen") {
		t.Errorf("Open without addresses: %v", err)
	}
	_, err = Open(Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.7:0")}, Cache: dnstest.NewKernel(), Journal: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "journal") {
		t.Errorf("Open with a folder as journal: %v", err)
	}
}

func TestDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		t.Skip("dig is not installed")
	}
	f := start(t, Options{}, sample())
	host, port, _ := strings.Cut(f.addr, ":")
	check := func(want []string, args ...string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), dig, append([]string{"@" + host, "-p", port, "+short"}, args...)...).CombinedOutput()
		got := strings.Fields(string(out))
		slices.Sort(got)
		if d := cmp.Diff(got, want); err != nil || d != "" {
			t.Errorf("dig %v: %v (got -, want +):\n%s", args, err, d)
		}
	}
	check([]string{"127.1.0.2", "127.1.0.3"}, "web.weft.mesos")
	check([]string{"127.1.0.2", "127.1.0.3"}, "+tcp", "web.weft.mesos")
	check([]string{"fd01:b::2"}, "web.weft.mesos", "AAAA")
	check([]string{"web.weft.mesos."}, "-x", "127.1.0.3")
	check([]string{"0", "0", "1", "1", "80", "80", "web-fjp7y-a.weft.mesos.", "web-hw4uo-a.weft.mesos."}, "_http._web._tcp.weft.mesos", "SRV")
	check([]string{}, "nothing.mesos")
}
