// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"

	"weft/discovery/dns/dnstest"
	"weft/discovery/dns/foreign"
	"weft/discovery/dns/resident"
	"weft/discovery/zone"
)

// sink takes one reply.
type sink struct {
	wire.ResponseWriter // nil: what is not below must not be called
	remote              net.Addr
	msg                 *wire.Msg
	raw                 []byte
}

func (s *sink) RemoteAddr() net.Addr { return s.remote }

func (s *sink) WriteMsg(m *wire.Msg) error {
	s.msg = m
	var err error
	s.raw, err = m.Pack()
	return err
}

func (s *sink) Write(raw []byte) (int, error) {
	s.raw = raw
	return len(raw), nil
}

// FuzzMessages feeds what may come in on the socket: whatever it is, the reply fits the asker, parses,
// and answers that question; and what the kernel learns of it is well-formed and true.
func FuzzMessages(f *testing.F) {
	for _, name := range []string{"web.weft.mesos.", "_web._tcp.weft.mesos.", "many.weft.mesos.", "x.mesos.", `a\.b\000.mesos.`, "com."} {
		for _, qtype := range []uint16{wire.TypeA, wire.TypeSRV, wire.TypePTR, wire.TypeANY} {
			m := new(wire.Msg).SetQuestion(name, qtype)
			if qtype == wire.TypeSRV {
				m.SetEdns0(700, true)
			}
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, false)
		}
	}
	k := dnstest.NewKernel()
	s := &Server{foreign: foreign.New(nil, 0, nil), limits: newLimits(-1)}
	s.view = func(netip.Addr) (uint32, string) { return 100, "prod" }
	var err error
	if s.answers, err = resident.Open(resident.Options{Cache: k, Limit: 448}); err != nil {
		f.Fatal(err)
	}
	z, diff := zone.New(zone.Options{Servers: addrs("198.51.100.1")}).Completed().With(sample())
	s.SetZone(z, diff)
	f.Fuzz(func(t *testing.T, b []byte, tcp bool) {
		m := new(wire.Msg)
		if m.Unpack(b) != nil || len(m.Question) != 1 || len(m.Answer)+len(m.Ns) > 0 || len(m.Extra) > 2 {
			return // the library answers those, or drops them
		}
		w := &sink{remote: &net.UDPAddr{IP: net.IPv4(127, 1, 0, 9)}}
		if tcp {
			w.remote = &net.TCPAddr{IP: net.IPv4(127, 1, 0, 9)}
		}
		s.log = nil // no path of an own or refused question logs
		q := question{msg: m, tcp: tcp}
		if rcode, ok := accept(m); ok {
			if _, own := z.Apex(strings.ToLower(m.Question[0].Name)); !own {
				return // no resolvers: TestRefusals
			}
		} else if rcode == wire.RcodeSuccess {
			t.Error("refused with NOERROR")
		}
		s.answers.Forget(func(string) bool { return true })
		atOnce, _, _, composed := s.compose(nil, b, 100, "prod")
		s.serve(t.Context(), w, m)
		if w.msg == nil {
			t.Fatalf("%v has no answer", m)
		}
		r := new(wire.Msg)
		if err := r.Unpack(w.raw); err != nil {
			t.Fatalf("answer to %v: %v", m, err)
		}
		if len(w.raw) > limit(&q) || r.Id != m.Id || !r.Response || len(r.Question) != 1 || r.Question[0] != m.Question[0] {
			t.Errorf("%v is answered by %v of %d bytes", m, r, len(w.raw))
		}
		if err := k.Same(z, views); err != nil {
			t.Error(err)
		}
		same := func(way string, out []byte) {
			quick := new(wire.Msg)
			if err := quick.Unpack(out); err != nil {
				t.Fatalf("answer from %s to %v: %v", way, m, err)
			}
			if d := cmp.Diff(sections(quick), sections(r)); d != "" && !tcp && !r.Truncated {
				t.Errorf("%v (from %s -, the long way +):\n%s", m, way, d)
			}
		}
		out, _, hit := s.answers.To(nil, b, 100)
		if hit {
			same("memory", out)
		}
		if composed {
			same("the reader", atOnce)
		}
		if composed && !tcp && !hit {
			t.Errorf("%v is composed by the reader, and not resident after the long way", m)
		}
	})
}

// sections are what an answer says, in any order. Names that end in the question's have its letters.
func sections(m *wire.Msg) []any {
	all := []any{m.MsgHdr, m.Question}
	for _, section := range [][]wire.RR{m.Answer, m.Ns, m.Extra} {
		all = append(all, strings.ToLower(strings.Join(values(section), "\n")))
	}
	return all
}
