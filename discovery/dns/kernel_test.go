// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"weft/bpf"
	"weft/bpf/answers"
	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/discovery"
	"weft/discovery/dns/foreign"
	"weft/discovery/dns/resident"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// oneView is the kernel's cache as one network sees it: the program of the host, which a test can run, has the host's view.
type oneView struct {
	*answers.Cache
	vni uint32
}

// Put implements resident.Cache.
func (v oneView) Put(vni uint32, qname []byte, qtype uint16, rcode uint8, an, ns, ar uint16, rotate uint8, data []byte) error {
	if vni != v.vni {
		return errors.New("of another view")
	}
	return v.Cache.Put(0, qname, qtype, rcode, an, ns, ar, rotate, data)
}

// Delete implements resident.Cache.
func (v oneView) Delete(_ uint32, qname []byte, qtype uint16) error {
	return v.Cache.Delete(0, qname, qtype)
}

// everyZone has names in all zones, of all types and of all sizes.
func everyZone() *zone.Zone {
	alias := func(name, target string) record.Record {
		return record.Record{Name: name, Type: record.CNAME, TTL: 60, Target: target, From: "static/test"}
	}
	static := []record.Record{
		alias("www.corp.example.", "db.corp.example."), alias("chain.corp.example.", "www.corp.example."), alias("loop.corp.example.", "loop.corp.example."),
		alias("many.corp.example.", "web.weft.mesos."), alias("out.corp.example.", "example.org."),
		{Name: "db.corp.example.", Type: record.A, TTL: 60, Addr: addrs("10.0.0.9")[0], From: "static/test"},
		{Name: "only.mesos.", Type: record.AAAA, TTL: 1, Addr: addrs("fd00::9")[0], Network: "prod", From: "static/test"},
	}
	long := strings.Repeat("long-label-of-thirty-characters.", 7) + "corp.example."
	for i := range row.DNSLongData / 16 {
		static = append(static, record.Record{Name: long, Type: record.A, TTL: 9, Addr: netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), From: "static/test"})
	}
	z := zone.New(zone.Options{
		Servers: addrs("198.51.100.1", "fd01:d::c633:6401"), Reverse: []netip.Prefix{netip.MustParsePrefix("11.0.0.0/8")}, Self: "host-a",
		Zones: []string{"corp.example"}, Static: static,
	}).Completed()
	ledger := func(kind discovery.Kind, key string, f zone.Fact) zone.Change {
		return zone.Change{Source: zone.Source{Kind: kind, Key: key, Writer: discovery.Ledger}, Fact: f}
	}
	master := discovery.Master{ID: "m1", Addr: addrs("10.0.0.1")[0], Port: 7700}
	changes := append(sample(), ledger(discovery.KindMaster, "m1", zone.Master{Master: master}), ledger(discovery.KindLeader, "leader", zone.Leader{Master: master}),
		zone.Change{
			Source: zone.Source{Kind: discovery.KindNode, Key: "host-a", Writer: "host-a"},
			Fact:   zone.Host{Node: discovery.Node{ID: "host-a", Addrs: addrs("192.0.2.7", "fd77::7")}},
		},
		task("t3", strings.Repeat("l", 63), "127.1.0.4"), service("dev", "db.weft", "11.0.0.8", "fd01:c::8"))
	for i := range 9 {
		changes = append(changes, task("s-"+string(rune('a'+i)), "some", netip.AddrFrom4([4]byte{127, 1, 2, byte(i)}).String()))
	}
	z, _ = z.With(changes)
	return z
}

// namesOf are those of a zone, by all the names that they have, and some that are missing.
func namesOf(z *zone.Zone) []string {
	names := []string{".", "com.", "nothing.", "mesos.thisdcos.directory."}
	for r := range z.All {
		names = append(names, r.Name, "x."+r.Name)
		if rest, ok := strings.CutSuffix(r.Name, "weft.mesos."); ok {
			names = append(names, rest+"prod.weft.", rest+"dev.weft.", rest+"weft.mesos.thisdcos.directory.")
		}
		if rest, ok := strings.CutSuffix(r.Name, "l4lb.thisdcos.directory."); ok {
			names = append(names, rest+"dclb.thisdcos.global.", rest+"dclb.thisdcos.directory.")
		}
		if _, above, ok := strings.Cut(r.Name, "."); ok && above != "" {
			names = append(names, above)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(n string) bool { _, ok := wire.IsDomainName(n); return !ok || len(n) > 254 })
}

// asked makes a message as resolvers do: in any case, with EDNS or not.
func asked(rng *rand.Rand, name string, qtype uint16) *wire.Msg {
	letters := []byte(name)
	for i := range letters {
		if rng.IntN(2) == 0 {
			letters[i] = strings.ToUpper(name[i : i+1])[0]
		}
	}
	m := new(wire.Msg).SetQuestion(string(letters), qtype)
	m.RecursionDesired, m.CheckingDisabled = rng.IntN(2) == 0, rng.IntN(2) == 0
	if rng.IntN(3) > 0 {
		m.SetEdns0([]uint16{0, 512, 600, 1232, 65535}[rng.IntN(5)], rng.IntN(2) == 0)
	}
	return m
}

// meaning is what resolvers make of a message; which of the records is the first is by lot.
func meaning(t *testing.T, raw []byte) (*wire.Msg, []any) {
	t.Helper()
	m := new(wire.Msg)
	if err := m.Unpack(raw); err != nil {
		t.Fatalf("%x: %v", raw, err)
	}
	sorted := func(rrs []wire.RR) []string {
		var out []string
		for _, rr := range rrs {
			out = append(out, strings.ToLower(rr.String())) // letters of names in records are of whom they are compressed by
		}
		slices.Sort(out)
		return out
	}
	return m, []any{m.MsgHdr, m.Question, sorted(m.Answer), sorted(m.Ns), sorted(m.Extra)}
}

// TestKernelSaysWhatTheServerSays: to questions about every name of every zone, of all types, in all views, by all four ways.
func TestKernelSaysWhatTheServerSays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("loading programs needs root")
	}
	z := everyZone()
	names, rng := namesOf(z), rand.New(rand.NewPCG(7, 8))
	types := []uint16{
		wire.TypeA, wire.TypeAAAA, wire.TypeSRV, wire.TypePTR, wire.TypeCNAME, wire.TypeNS, wire.TypeSOA, wire.TypeTXT, wire.TypeANY, wire.TypeHTTPS, 65280,
	}
	for _, vni := range slices.Sorted(maps.Keys(views)) {
		network := views[vni]
		server, ask := beside(t, vni, network)
		server.SetZone(z, zone.Diff{All: true})
		total, answered, cut, composed := 0, 0, 0, 0
		for _, name := range names {
			often := len(name) >= 200 // they are few, and may be cut
			times := 2
			if often {
				times = 8
			}
			for i := range times * len(types) {
				qtype := types[i%len(types)]
				if rng.IntN(8) > 0 && !often {
					continue
				}
				m := asked(rng, name, qtype)
				packed, err := m.Pack()
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				var whole, long sink
				whole.remote, long.remote = &net.TCPAddr{IP: net.IPv4(127, 1, 0, 9), Port: 5}, &net.UDPAddr{IP: net.IPv4(127, 1, 0, 9), Port: 5}
				atOnce, _, _, _ := server.compose(nil, packed, vni, network)
				if atOnce != nil {
					composed++
				}
				server.serve(t.Context(), &whole, m.Copy())
				server.serve(t.Context(), &long, m.Copy())
				total++
				for way, raw := range map[string][]byte{"kernel": ask(packed), "memory": memorized(server, packed, vni), "reader": atOnce} {
					if raw == nil {
						if way == "kernel" && may(&whole, name, z) {
							t.Errorf("%s %s in %q: left to the server, of %d bytes", name, wire.Type(qtype), network, len(whole.raw))
						}
						continue
					}
					got, is := meaning(t, raw)
					want, wants := meaning(t, long.raw)
					if way == "kernel" {
						answered++
					}
					if got.Truncated {
						cut++
						if len(whole.raw) <= limit(&question{msg: m}) || len(got.Answer) > 0 || !got.Authoritative || got.Rcode != want.Rcode {
							t.Errorf("%s %s in %q by the %s: cut, and is of %d bytes in all", name, wire.Type(qtype), network, way, len(whole.raw))
						}
						continue
					}
					if diff := cmp.Diff(is, wants); diff != "" {
						t.Fatalf("%s %s in %q (%s -, server +):\n%s", name, wire.Type(qtype), network, way, diff)
					}
				}
			}
		}
		t.Logf("view %q: %d questions, %d answered in the kernel, %d cut, %d composed by who reads the socket", network, total, answered, cut, composed)
		if answered < total/2 || cut == 0 || composed < total/8 {
			t.Errorf("view %q: of %d questions %d were answered, %d cut, %d composed: the test tests little", network, total, answered, cut, composed)
		}
	}
}

// may tells whether the kernel has to have an answer once the server gave it.
func may(whole *sink, name string, z *zone.Zone) bool {
	_, own := z.Apex(name)
	_, former := z.Present(name)
	const head, tail, opt = 12, 4, 11
	size := len(whole.raw) - head - len(name) - 1 - tail
	if whole.msg.IsEdns0() != nil {
		size -= opt
	}
	alias := len(whole.msg.Answer) > 1 && whole.msg.Answer[0].Header().Rrtype == wire.TypeCNAME
	return own && !former && !alias && size <= row.DNSLongData && whole.msg.Rcode != wire.RcodeServerFailure && whole.msg.Rcode != wire.RcodeRefused &&
		whole.msg.Question[0].Qtype != wire.TypeANY
}

func memorized(s *Server, packed []byte, vni uint32) []byte {
	out, _, hit := s.answers.To(nil, packed, vni)
	if !hit {
		return nil
	}
	return out
}

// beside returns a server with a kernel's cache, without sockets, and the kernel's way to be asked: nil is no answer.
func beside(t *testing.T, vni uint32, network string) (*Server, func([]byte) []byte) {
	t.Helper()
	specs, err := bpf.Specs()
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr("198.51.100.1")
	if err := bpf.Configure(specs["dns"], bpf.Config{DNS4: at, DNS6: netip.MustParseAddr("fd01:d::c633:6401")}); err != nil {
		t.Fatal(err)
	}
	set, err := bpftest.LoadWhole(specs["dns"])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(set.Close)
	cache, err := bpftest.Answers(set.Maps)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	s := &Server{foreign: foreign.New([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, 0, log), limits: newLimits(-1), log: log}
	s.view = func(netip.Addr) (uint32, string) { return vni, network }
	if s.answers, err = resident.Open(resident.Options{Cache: oneView{cache, vni}, Limit: row.DNSLongData, Log: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.answers.Close() })
	s.answers.SetRecursion(true)
	const head = 14 + 20 + 8
	return s, func(message []byte) []byte {
		frame := bpftest.Packet{Src: netip.MustParseAddr("10.0.0.9"), Dst: at, Proto: 17, SPort: 40000, DPort: 53, Payload: message}.Bytes()
		r, err := set.Run("from_host", slices.Concat(frame), bpftest.Meta{})
		if err != nil {
			t.Fatalf("%x: %v", message, err)
		}
		if r.Reason != row.ReasonAnsweredDNS {
			return nil
		}
		if err := bpftest.Check(r.Out); err != nil {
			t.Fatalf("%x: %v", r.Out, err)
		}
		return r.Out[head:]
	}
}
