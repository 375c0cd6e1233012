// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"weft/discovery/dns/foreign"
	"weft/discovery/mesos"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// mesosZone loads a recorded state as the recorded server did.
func mesosZone(t *testing.T, dir string, strict bool) *zone.Zone {
	t.Helper()
	document, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := mesos.Parse(document, strict)
	if err != nil {
		t.Fatal(err)
	}
	facts := s.Facts(mesos.Options{Masters: []string{"127.0.0.1:15050"}, Resolved: map[string][]netip.Addr{"localhost": addrs("127.0.0.1")}})
	z, _ := zone.New(zone.Options{
		TTL: time.Minute, Servers: addrs("127.0.0.1"), MesosOnly: true, Strict: strict, Weight: 1,
		IPSources: []zone.IPSource{zone.FromHost, zone.FromNetinfo},
	}).With(facts.Changes(nil))
	return z.Completed().Dated(0)
}

func mesosServer(z *zone.Zone) *Server {
	s := &Server{mesos: &Mesos{Recursion: true, Truncate: true, Strict: z.Options().Strict}, foreign: foreign.New(nil, 0, nil), log: slog.New(slog.DiscardHandler)}
	s.serveZone(z)
	return s
}

// askMesos asks the long way, and then for what that left for the next asker.
func askMesos(t *testing.T, s *Server, m *wire.Msg, tcp bool) *wire.Msg {
	t.Helper()
	asked, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	w := &sink{remote: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	if tcp {
		w.remote = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}
	}
	s.serve(t.Context(), w, m)
	if w.raw == nil {
		return nil
	}
	r := new(wire.Msg)
	if err := r.Unpack(w.raw); err != nil {
		t.Fatal(err)
	}
	// Where the answer is by lot one form in eight is there.
	for range 2 * forms {
		if out, _, done := s.quickly(nil, asked, netip.Addr{}); done && !bytes.Equal(out, w.raw) {
			t.Errorf("%v\nis said again as %x, not %x", m, out, w.raw)
		}
	}
	return r
}

// line writes a reply in the form of the recorded ones.
func line(m *wire.Msg) string {
	section := func(rrs []wire.RR, short bool) string {
		var out []string
		for _, rr := range rrs {
			h := rr.Header()
			text := h.Name + " " + wire.Type(h.Rrtype).String()
			if !short {
				data := strings.TrimPrefix(rr.String(), h.String())
				text = fmt.Sprintf("%s %d IN %s %s", h.Name, h.Ttl, wire.Type(h.Rrtype), strings.Join(strings.Fields(data), " "))
			}
			out = append(out, text)
		}
		slices.Sort(out)
		return "[" + strings.Join(out, " | ") + "]"
	}
	q := m.Question[0]
	return fmt.Sprintf("%s %s %s aa=%t ra=%t tc=%t AN%s NS%s AR%s", q.Name, wire.Type(q.Qtype), wire.RcodeToString[m.Rcode],
		m.Authoritative, m.RecursionAvailable, m.Truncated, section(m.Answer, false), section(m.Ns, false), section(m.Extra, true))
}

// eachRecorded calls f with every recorded reply, of all states.
func eachRecorded(t *testing.T, strict bool, f func(s *Server, m *wire.Msg, recorded string)) {
	t.Helper()
	paths, err := filepath.Glob("../mesos/testdata/golden/*/dns.rfc1123.txt.gz")
	if err != nil || len(paths) < 10 {
		t.Fatalf("%d recordings, %v, want 10 or more", len(paths), err)
	}
	n := 0
	for _, path := range paths {
		s := mesosServer(mesosZone(t, filepath.Dir(path), strict))
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := gzip.NewReader(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			name, rest, _ := strings.Cut(lines.Text(), " ")
			qtype, _, _ := strings.Cut(rest, " ")
			f(s, new(wire.Msg).SetQuestion(name, wire.StringToType[qtype]), lines.Text())
			n++
		}
		if err := lines.Err(); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
	}
	if n < 37000 {
		t.Fatalf("%d recorded replies, want 37000 or more", n)
	}
}

func TestStrictIsMesosDNSToTheLetter(t *testing.T) {
	bad := 0
	eachRecorded(t, true, func(s *Server, m *wire.Msg, recorded string) {
		got := "none"
		if r := askMesos(t, s, m, true); r != nil {
			got = line(r)
		}
		if got != recorded {
			if bad++; bad < 20 {
				t.Errorf("got  %s\nwant %s", got, recorded)
			}
		}
	})
	if bad > 0 {
		t.Errorf("%d replies differ", bad)
	}
}

// recording is a recorded reply taken apart.
type recording struct{ Name, Type, Rcode, Flags, Answer, Authority, Additional string }

func parseRecording(text string) recording {
	head, rest, _ := strings.Cut(text, " AN[")
	an, rest, _ := strings.Cut(rest, "] NS[")
	ns, rest, _ := strings.Cut(rest, "] AR[")
	f := strings.SplitN(head, " ", 4)
	return recording{f[0], f[1], f[2], f[3], an, ns, strings.TrimSuffix(rest, "]")}
}

// corrected is what Mesos-DNS should have answered: names exist or not whatever type is asked for, and
// there is one SOA record, that of the apex.
func (r recording) corrected(exists bool) recording {
	const start = "mesos. 60 IN SOA ns1.mesos. root.ns1.mesos. 0 60 600 86400 60"
	if !exists {
		r.Rcode = "NXDOMAIN"
	}
	switch {
	case r.Answer != "":
		r.Authority = ""
	case r.Type == "SRV" && exists:
	default:
		r.Authority = start
	}
	return r
}

// Without Strict, exactly what Mesos says is put right differs from the recorded replies.
func TestDefaultDiffersOnlyAsPromised(t *testing.T) {
	bad, raw := 0, 0
	eachRecorded(t, false, func(s *Server, m *wire.Msg, recorded string) {
		r := askMesos(t, s, m, true)
		if r == nil {
			t.Errorf("no answer to %v", m)
			return
		}
		got, want := parseRecording(line(r)), parseRecording(recorded)
		if strings.EqualFold(want.Name, "mesos.") {
			return // TestApexIsThere
		}
		name := strings.ToLower(strings.ReplaceAll(want.Name, ".*", ""))
		exists := len(s.zone.Load().Lookup("", name).Records) > 0
		if !exists && want.Answer != "" {
			// Only a name as it is written in a DiscoveryInfo, dots and all, may be gone.
			raw++
			want.Answer, want.Additional = "", ""
		}
		if want = want.corrected(exists); got != want {
			if bad++; bad < 20 {
				t.Errorf("%s\n(got -, want +)\n%s", recorded, cmp.Diff(got, want))
			}
		}
	})
	if bad > 0 || raw == 0 || raw > 300 {
		t.Errorf("%d replies differ, %d were of raw names", bad, raw)
	}
}

func TestApexIsThere(t *testing.T) {
	s := mesosServer(mesosZone(t, "../mesos/testdata/golden/003-one-task", false))
	const start = "mesos. 60 IN SOA ns1.mesos. root.ns1.mesos. 0 60 600 86400 60"
	for qtype, want := range map[uint16]string{
		wire.TypeA:   "mesos. A NOERROR aa=true ra=true tc=false AN[] NS[" + start + "] AR[]",
		wire.TypeTXT: "mesos. TXT NOERROR aa=true ra=true tc=false AN[] NS[" + start + "] AR[]",
		wire.TypeSOA: "mesos. SOA NOERROR aa=true ra=true tc=false AN[" + start + "] NS[] AR[]",
		wire.TypeNS:  "mesos. NS NOERROR aa=true ra=true tc=false AN[mesos. 60 IN NS ns1.mesos.] NS[] AR[]",
		wire.TypeANY: "mesos. ANY NOERROR aa=true ra=true tc=false AN[mesos. 60 IN NS ns1.mesos. | " + start + "] NS[] AR[]",
	} {
		if got := line(askMesos(t, s, new(wire.Msg).SetQuestion("mesos.", qtype), false)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestConfiguredStartIsUsed(t *testing.T) {
	for _, strict := range []bool{true, false} {
		z := zone.New(zone.Options{
			Domain: "cluster.example", TTL: time.Minute, MesosOnly: true, Strict: strict,
			Start: record.Start{Server: "a.", Mailbox: "b.", Serial: 1, Refresh: 2, Retry: 3, Expire: 4, Minimum: 5},
		})
		r := askMesos(t, mesosServer(z.Dated(9)), new(wire.Msg).SetQuestion("x.cluster.example.", wire.TypeA), false)
		want := "cluster.example. 60 IN SOA a. b. 9 2 3 4 5"
		if strict {
			want = "x.cluster.example. 60 IN SOA a. b. 9 2 3 4 60"
		}
		if got := parseRecording(line(r)).Authority; got != want {
			t.Errorf("strict %t: %s, want %s", strict, got, want)
		}
	}
}

func TestSizeOfMesosAnswers(t *testing.T) {
	check := func(strict bool, edns uint16, tcp, truncate bool, answers int, tc bool) {
		t.Helper()
		z := mesosZone(t, "../mesos/testdata/golden/019-many-answers", strict)
		s := mesosServer(z)
		s.mesos.Truncate = truncate
		var name string
		for r := range z.MesosRecords {
			if n := len(z.Lookup("", r.Name).Of(record.A)); n == 120 && !strings.Contains(r.Name, "slave.") {
				name = r.Name
			}
		}
		m := new(wire.Msg).SetQuestion(name, wire.TypeA)
		if edns > 0 {
			m.SetEdns0(edns, false)
		}
		r := askMesos(t, s, m, tcp)
		if len(r.Answer) != answers || r.Truncated != tc || (r.IsEdns0() != nil) != (edns > 0 && !strict) {
			t.Errorf("strict %t edns %d tcp %t: %d answers of %s, tc %t, opt %v, want %d, %t",
				strict, edns, tcp, len(r.Answer), name, r.Truncated, r.IsEdns0(), answers, tc)
		}
	}
	check(true, 0, false, true, 29, true)
	check(true, 4096, false, true, 29, true)
	check(true, 4096, false, false, 29, false)
	check(true, 0, true, true, 120, false)
	check(false, 0, false, true, 29, true)
	check(false, 4096, false, true, 74, true) // 1232 bytes
	check(false, 4096, true, true, 120, false)
}

// Mesos-DNS answers nothing at all when a target's label is too long.
func TestLongNames(t *testing.T) {
	fact := zone.MesosTask{
		Framework: "fw", ID: "test", Name: strings.Repeat("l", 60), Agent: "a-S1", AgentAddrs: addrs("10.0.0.1"), HostPorts: []int{80},
	}
	for _, strict := range []bool{true, false} {
		z, _ := zone.New(zone.Options{MesosOnly: true, Strict: strict}).With([]zone.Change{{Source: zone.Source{Key: "t"}, Fact: fact}})
		m := new(wire.Msg).SetQuestion("_"+fact.Name+"._tcp.fw.mesos.", wire.TypeSRV)
		r := askMesos(t, mesosServer(z), m, false)
		if strict && r != nil || !strict && (r == nil || len(r.Answer) != 1 || len(r.Extra) != 1) {
			t.Errorf("strict %t: %v", strict, r)
		}
	}
}

func TestMesosServerOnSockets(t *testing.T) {
	r := newResolver(t, answering("a.example.com. 300 IN A 192.0.2.1"))
	other := newResolver(t, answering("a.sub.example.com. 300 IN A 192.0.2.2"))
	f := start(t, Options{
		Mesos: &Mesos{Recursion: true},
		ZoneResolvers: map[string][]netip.AddrPort{
			"example.com": {r.Addr}, "Sub.example.com.": {other.Addr},
		},
		ResolverTimeout: time.Second,
	}, nil)
	f.SetZone(mesosZone(t, "../mesos/testdata/golden/003-one-task", true), zone.Diff{})
	if got := f.query("leader.mesos.", wire.TypeA); !slices.Equal(values(got.Answer), []string{"127.0.0.1"}) || !got.RecursionAvailable {
		t.Errorf("leader.mesos: %v", got)
	}
	two := new(wire.Msg).SetQuestion("leader.mesos.", wire.TypeA)
	two.Question = append(two.Question, wire.Question{Name: "a.example.com.", Qtype: wire.TypeA, Qclass: wire.ClassINET})
	if got := f.ask(two, "udp", ""); !slices.Equal(values(got.Answer), []string{"127.0.0.1"}) || len(got.Question) != 1 {
		t.Errorf("leader.mesos and another: %v", got)
	}
	if got := f.query("a.example.com.", wire.TypeA); !slices.Equal(values(got.Answer), []string{"192.0.2.1"}) {
		t.Errorf("a zone's resolver: %v", got)
	}
	if got := f.query("a.sub.example.com.", wire.TypeA); !slices.Equal(values(got.Answer), []string{"192.0.2.2"}) {
		t.Errorf("a longer zone's resolver: %v", got)
	}
	if got := f.query("example.org.", wire.TypeA); got.Rcode != wire.RcodeRefused || got.RecursionAvailable || got.Authoritative {
		t.Errorf("no resolver: %v, want REFUSED", got)
	}
	if got := f.Stats(); got.Refused != 1 || len(got.Upstream) != 2 {
		t.Errorf("stats = %+v, want 1 refused, 2 resolvers", got)
	}
}
