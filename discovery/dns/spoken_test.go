// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/zone"
)

// spokenZone has a task with one address, one with so many, and a service of each.
func spokenZone(many int, last byte) *zone.Zone {
	task := func(id, name string, addrs ...netip.Addr) zone.Change {
		return zone.Change{
			Source: zone.Source{Kind: "mesos-task", Key: id, Writer: "m"},
			Fact: zone.MesosTask{
				Framework: "f", ID: id, Name: name, Agent: "a-S0", AgentHost: "10.0.0.1", Netinfo: addrs,
				Discovery: name, Ports: []zone.MesosPort{{Name: "http", Protocol: "tcp", Number: 80}},
			},
		}
	}
	changes := []zone.Change{task("one", "one", netip.AddrFrom4([4]byte{9, 0, 0, last}))}
	for i := range many {
		id := fmt.Sprintf("many-%d", i)
		changes = append(changes, task(id, "many", netip.AddrFrom4([4]byte{9, 0, 1, byte(i)})))
	}
	z, _ := zone.New(zone.Options{TTL: time.Minute, MesosOnly: true, Weight: 1, IPSources: []zone.IPSource{zone.FromNetinfo}}).With(changes)
	return z.Completed().Dated(uint32(last))
}

// say has a question go the long way.
func say(t *testing.T, s *Server, m *wire.Msg) {
	t.Helper()
	s.serve(t.Context(), &sink{remote: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}}, m.Copy())
}

// told is what is said at once, nil when the long way has to be gone.
func told(t *testing.T, s *Server, m *wire.Msg) *wire.Msg {
	t.Helper()
	asked, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	out, _, done := s.quickly(nil, asked, netip.Addr{})
	if !done {
		return nil
	}
	r := new(wire.Msg)
	if err := r.Unpack(out); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatWasSaidIsSaidAgain(t *testing.T) {
	s := mesosServer(spokenZone(3, 1))
	m := new(wire.Msg).SetQuestion("one.f.mesos.", wire.TypeA)
	if told(t, s, m) != nil {
		t.Error("nobody asked yet")
	}
	say(t, s, m)
	m.Id++
	for range 3 * formUses {
		if r := told(t, s, m); r == nil || r.Id != m.Id || !slices.Equal(values(r.Answer), []string{"9.0.0.1"}) {
			t.Fatalf("again: %v", r)
		}
	}
	if n := s.stats.own.Load(); n != 1+3*formUses {
		t.Errorf("%d questions were counted", n)
	}
	for what, other := range map[string]*wire.Msg{
		"no recursion":  {MsgHdr: wire.MsgHdr{Id: 7}, Question: m.Question},
		"EDNS":          m.Copy().SetEdns0(1232, false),
		"capitals":      new(wire.Msg).SetQuestion("One.f.mesos.", wire.TypeA),
		"another type":  new(wire.Msg).SetQuestion("one.f.mesos.", wire.TypeAAAA),
		"another class": {Question: []wire.Question{{Name: "one.f.mesos.", Qtype: wire.TypeA, Qclass: wire.ClassCHAOS}}},
	} {
		if r := told(t, s, other); r != nil {
			t.Errorf("%s: told %v, which was not asked", what, r)
		}
	}
	capitals := new(wire.Msg).SetQuestion("One.f.mesos.", wire.TypeA)
	if say(t, s, capitals); told(t, s, capitals) != nil {
		t.Error("letters by lot are remembered")
	}
	missing := new(wire.Msg).SetQuestion("none.f.mesos.", wire.TypeA)
	say(t, s, missing)
	if r := told(t, s, missing); r == nil || r.Rcode != wire.RcodeNameError || s.stats.missing.Load() != 2 {
		t.Errorf("missing: %v, %d counted", r, s.stats.missing.Load())
	}

	s.serveZone(spokenZone(3, 2))
	if r := told(t, s, m); r != nil {
		t.Errorf("of the zone before: %v", r)
	}
	say(t, s, m)
	if r := told(t, s, m); r == nil || !slices.Equal(values(r.Answer), []string{"9.0.0.2"}) {
		t.Errorf("of the new zone: %v", r)
	}
}

// Clients that take the first address spread over all, as they do by Mesos-DNS.
func TestOrdersStayByLot(t *testing.T) {
	const many, questions = 5, 20000
	s := mesosServer(spokenZone(many, 1))
	for _, q := range []struct {
		name  string
		qtype uint16
	}{{"many.f.mesos.", wire.TypeA}, {"_many._tcp.f.mesos.", wire.TypeSRV}} {
		m := new(wire.Msg).SetQuestion(q.name, q.qtype)
		first, again := map[string]int{}, 0
		for range questions {
			r := told(t, s, m)
			if r == nil {
				w := &sink{remote: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 9)}}
				s.serve(t.Context(), w, m.Copy())
				if r = new(wire.Msg); r.Unpack(w.raw) != nil {
					t.Fatalf("%s: %x", q.name, w.raw)
				}
			} else {
				again++
			}
			if len(r.Answer) != many {
				t.Fatalf("%s: %v", q.name, r)
			}
			first[r.Answer[0].String()]++
		}
		if share := float64(again) / questions; share < 0.9 || share > 0.96 {
			t.Errorf("%s: %.2f were said again, 16 of 17 should be", q.name, share)
		}
		if len(first) != many {
			t.Errorf("%s: first were %v", q.name, first)
		}
		for record, n := range first {
			// Some 1,200 forms, of which a fifth begins with it: 240, and 14 more or less.
			if n < questions/many*2/3 || n > questions/many*4/3 {
				t.Errorf("%s: %s was first %d times of %d", q.name, record, n, questions)
			}
		}
	}
}

func TestWhatIsRememberedHasABound(t *testing.T) {
	s := mesosServer(spokenZone(3, 1))
	kept := s.spoken.Load()
	kept.missing, kept.left = 1000, 1000
	for i := range 100 {
		say(t, s, new(wire.Msg).SetQuestion(fmt.Sprintf("none-%d.f.mesos.", i), wire.TypeA))
	}
	if n := len(kept.answers); n == 0 || n > 4 {
		t.Errorf("%d missing names are remembered", n)
	}
	one := new(wire.Msg).SetQuestion("one.f.mesos.", wire.TypeA)
	if say(t, s, one); told(t, s, one) == nil {
		t.Error("missing names leave an answer no room")
	}
	many := new(wire.Msg).SetQuestion("many.f.mesos.", wire.TypeA)
	for range 1000 {
		say(t, s, many)
	}
	if kept.left < 0 || kept.missing < 0 {
		t.Errorf("%d and %d bytes too many", -kept.left, -kept.missing)
	}
}

// Who asks one address of a server that is at all of them is answered from that one.
func TestAnswersComeFromTheAddressThatWasAsked(t *testing.T) {
	for _, at := range []string{"0.0.0.0:0", "[::]:0"} {
		for name, o := range map[string]*Mesos{"leader.mesos.": nil, "one.f.mesos.": {}} {
			f := start(t, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort(at)}, Mesos: o}, nil)
			if o != nil {
				f.SetZone(spokenZone(3, 1), zone.Diff{})
			}
			for range 3 { // the long way, then at once
				// A connected socket takes nothing from another address.
				f.addr = fmt.Sprintf("127.0.0.2:%d", f.Addrs()[0].Port())
				if r := f.query(name, wire.TypeA); o != nil && len(r.Answer) != 1 {
					t.Errorf("%s, %s: %v", at, name, r)
				}
			}
		}
	}
}
