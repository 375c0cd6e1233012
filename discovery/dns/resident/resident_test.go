// SPDX-License-Identifier: Apache-2.0

package resident

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"
	"pgregory.net/rapid"

	"weft/bpf/answers"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery/dns/answer"
	"weft/discovery/dns/dnstest"
	"weft/discovery/zone"
)

var views = dnstest.Views()

// open returns answers from a zone, and the zone.
func open(t *testing.T, o Options, changes ...zone.Change) (*Answers, *zone.Zone) {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	z, diff := zone.New(zone.Options{}).Completed().With(append(changes,
		dnstest.Network("prod", 100, "127.1.0.0/16"), dnstest.Task("t1", "web", "127.1.0.2", "fd01:b::2")))
	l.Renew(z, diff, func() {})
	return l, z
}

// learn is a question of the host, as the server has it.
func learn(l *Answers, z *zone.Zone, name string, qtype uint16) {
	learnIn(l, z, Key{Name: name, Type: qtype})
}

func learnIn(l *Answers, z *zone.Zone, k Key) {
	if p, err := l.compose(k, z, views[k.VNI]); err == nil && l.Wants(p) {
		l.Learn(p)
	}
}

func TestMissingNamesPushOutNoAnswer(t *testing.T) {
	k := dnstest.NewKernel()
	l, z := open(t, Options{Cache: k})
	learn(l, z, "web.weft.mesos.", wire.TypeA)
	for i := range maxMissing + 50 {
		learn(l, z, fmt.Sprintf("x%d.weft.mesos.", i), wire.TypeA)
	}
	if _, ok := k.Get(0, "web.weft.mesos.", wire.TypeA); !ok || k.Len() != maxMissing+1 {
		t.Errorf("%d answers, web among them %t, want %d", k.Len(), ok, maxMissing+1)
	}
	for qtype := range uint16(2 * maxMissing) {
		learn(l, z, "web.weft.mesos.", 1000+qtype)
	}
	if _, ok := k.Get(0, "web.weft.mesos.", wire.TypeA); !ok || k.Len() != maxMissing+1 {
		t.Errorf("after many types %d answers, web among them %t, want %d", k.Len(), ok, maxMissing+1)
	}
	if l.Stats().Resident != k.Len() {
		t.Errorf("%d resident, %d in the kernel", l.Stats().Resident, k.Len())
	}
}

// TestAFullShelfTakesWhatIsAskedForTwice: and what is asked for once costs the kernel nothing.
func TestAFullShelfTakesWhatIsAskedForTwice(t *testing.T) {
	const most = 8
	k := dnstest.NewKernel()
	name := func(i int) string { return fmt.Sprintf("n%d.weft.mesos.", i) }
	var changes []zone.Change
	for i := range 10 * most {
		changes = append(changes, dnstest.Task(fmt.Sprint(i), fmt.Sprint("n", i), fmt.Sprintf("127.1.2.%d", i+1)))
	}
	l, z := open(t, Options{Cache: k}, changes...)
	l.known = newShelf(most)
	writes := 0
	k.Observe(func() { writes++ })
	resident := func(i int, vni uint32) bool {
		_, ok := k.Get(vni, name(i), wire.TypeA)
		return ok
	}
	for i := range most {
		if learn(l, z, name(i), wire.TypeA); !resident(i, 0) {
			t.Errorf("%d is not learnt at once, of %d that may be", i, most)
		}
	}
	writes = 0
	for i := most; i < 10*most; i++ {
		learn(l, z, name(i), wire.TypeA)
	}
	if writes != 0 || k.Len() != most {
		t.Errorf("%d writes and %d answers after names that were asked for once, want 0 and %d", writes, k.Len(), most)
	}
	learn(l, z, name(most), wire.TypeAAAA)
	learnIn(l, z, Key{VNI: 100, Name: name(most), Type: wire.TypeA})
	if writes != 0 {
		t.Error("another type's question, or another network's, is taken for the second one")
	}
	learn(l, z, name(0), wire.TypeA) // the kernel passed it on: it goes last now
	if writes == 0 {
		t.Error("what is resident is not learnt anew")
	}
	for range 2 {
		learnIn(l, z, Key{VNI: 100, Name: name(3 * most), Type: wire.TypeA})
	}
	if !resident(3*most, 100) || resident(1, 0) || !resident(0, 0) || k.Len() != most {
		t.Errorf("the second question: learnt %t, for the one that was learnt first: %t", resident(3*most, 100), !resident(1, 0))
	}
	next, diff := z.With([]zone.Change{
		dnstest.Task("0", "n0", "127.1.3.1"), dnstest.Task(fmt.Sprint(3*most), fmt.Sprint("n", 3*most), "127.1.3.2"),
	})
	l.Renew(next, diff, func() {})
	if err := k.Same(next, views); err != nil || k.Len() != most {
		t.Errorf("what a change makes untrue is not replaced at once, %d answers: %v", k.Len(), err)
	}
	l.Forget(func(n string) bool { return n == name(0) })
	if learn(l, next, name(2*most+1), wire.TypeTXT); k.Len() != most { // which is missing: that has its own shelf
		t.Errorf("%d answers, want %d", k.Len(), most)
	}
	if learn(l, next, name(5), wire.TypeAAAA); k.Len() != most+1 {
		t.Error("where there is room again the first question is not enough")
	}
}

// TestALongAnswerIsComposedByTheReaderOnce: then by who keeps nobody waiting, until it is short enough to be resident.
func TestALongAnswerIsComposedByTheReaderOnce(t *testing.T) {
	label := strings.Repeat("m", 40) // longer than a record that points to it
	name := label + ".weft.mesos."
	var list []string
	for i := range 1 + maxUDP/16 {
		list = append(list, fmt.Sprintf("127.1.4.%d", i))
	}
	l, z := open(t, Options{}, dnstest.Task("t2", label, list...))
	q, err := new(wire.Msg).SetQuestion("M"+name[1:], wire.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	k, ok := l.Question(q, 0)
	if k.Name != name || k.Type != wire.TypeA || !ok {
		t.Fatalf("the question is read as %v, %t", k, ok)
	}
	if _, err := l.compose(k, z, ""); !errors.Is(err, errLong) {
		t.Errorf("%d addresses: %v", len(list), err)
	}
	if _, ok := l.Question(q, 0); ok {
		t.Error("the reader is to compose it again")
	}
	if _, ok := l.Question(q, 100); !ok {
		t.Error("another network's answer is taken for as long")
	}
	next, diff := z.With([]zone.Change{dnstest.Task("t2", label, list[1:]...)})
	l.Renew(next, diff, func() {})
	if learn(l, next, name, wire.TypeA); l.Stats().Resident != 1 {
		t.Errorf("what fits, of %d bytes, is not learnt", 16*len(list[1:]))
	}
}

// TestAnAnswerThatWasHalfReplacedIsSettled: a process that is killed between the two steps leaves a short answer that hides the
// long one, or the other way about. The next process leaves the true one alone, whichever that is by then.
func TestAnAnswerThatWasHalfReplacedIsSettled(t *testing.T) {
	const name = "web.weft.mesos."
	one, many := dnstest.Task("t1", "web", "127.1.0.2"), dnstest.Task("t1", "web", "127.1.0.3", "127.1.0.4", "127.1.0.5")
	for what, changes := range map[string][3]zone.Change{
		"longer": {one, many, many}, "shorter": {many, one, one}, "longer and back": {one, many, one}, "shorter and back": {many, one, many},
		"longer and gone": {one, many, dnstest.Gone(one)}, "shorter and gone": {many, one, dnstest.Gone(one)},
	} {
		t.Run(what, func(t *testing.T) {
			var short table.Memory[row.DNSKey, row.DNSAnswer]
			var long table.Memory[row.DNSKey, row.DNSLong]
			killed := false
			deaf := func(op table.Op, _ row.DNSKey) error {
				if killed && op == table.OpDelete {
					return errors.New("killed")
				}
				return nil
			}
			o := Options{Log: slog.New(slog.DiscardHandler), Journal: filepath.Join(t.TempDir(), "answers"), Cache: answers.New(
				&table.Faulty[row.DNSKey, row.DNSAnswer]{Table: &short, Fail: deaf}, &table.Faulty[row.DNSKey, row.DNSLong]{Table: &long, Fail: deaf})}
			z := zone.New(zone.Options{}).Completed()
			start := func(c zone.Change) (*Answers, error) {
				l, err := Open(o)
				if err == nil {
					next, diff := z.With([]zone.Change{c})
					z = next
					l.Renew(z, diff, func() {})
				}
				return l, err
			}
			l, err := start(changes[0])
			if err != nil {
				t.Fatal(err)
			}
			learn(l, z, name, wire.TypeA)
			killed = true
			next, diff := z.With(changes[1:2])
			z = next
			l.Renew(z, diff, func() {})
			if _, half, _ := short.Get(row.DNSKeyOf(0, []byte("\x03web\x04weft\x05mesos\x00"), wire.TypeA)); !half {
				t.Error("no short answer was left")
			}
			killed = false
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if l, err = start(changes[2]); err != nil {
				t.Fatal(err)
			}
			shorts, _ := short.All()
			longs, _ := long.All()
			apex, _ := z.Apex(name)
			want := answer.Compose(z, "", apex, name, wire.TypeA)
			var got []wire.RR
			for _, a := range shorts {
				got = unpack(t, name, a.Ancount, a.Data[:a.Len])
			}
			for _, a := range longs {
				got = unpack(t, name, a.Ancount, a.Data[:a.Len])
			}
			if diff := cmp.Diff(sorted(want.Records), sorted(got)); diff != "" || len(shorts)+len(longs) > 1 {
				t.Errorf("%d short answers and %d long ones (-want +got):\n%s", len(shorts), len(longs), diff)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// unpack reads the answer records of a row.
func unpack(t *testing.T, name string, count uint16, records []byte) []wire.RR {
	t.Helper()
	packed, err := new(wire.Msg).SetQuestion(name, wire.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	packed[7] = byte(count)
	var rrs []wire.RR
	packed = append(packed, records...)
	for at := len(packed) - len(records); len(rrs) < int(count); {
		var rr wire.RR
		if rr, at, err = wire.UnpackRR(packed, at); err != nil {
			t.Fatal(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// An answer composed from a zone that is no longer served is not learnt.
func TestOldZoneTeachesNothing(t *testing.T) {
	k := dnstest.NewKernel()
	l, old := open(t, Options{Cache: k})
	next, diff := old.With([]zone.Change{dnstest.Task("t9", "new", "127.1.0.9")})
	l.Renew(next, diff, func() {})
	learn(l, old, "new.weft.mesos.", wire.TypeA)
	if k.Len() != 0 {
		t.Error("the kernel learnt from an old zone")
	}
}

// TestJournalIsUsedAsItIsWhenNoNewOneCanBeWritten: a full disk keeps no name server from starting.
func TestJournalIsUsedAsItIsWhenNoNewOneCanBeWritten(t *testing.T) {
	k := dnstest.NewKernel()
	journal := filepath.Join(t.TempDir(), "answers")
	l, z := open(t, Options{Cache: k, Journal: journal})
	learn(l, z, "web.weft.mesos.", wire.TypeA)
	if err := errors.Join(l.Close(), os.Mkdir(journal+".new", 0o700)); err != nil { // so that no file can have the name
		t.Fatal(err)
	}
	l, z = open(t, Options{Cache: k, Journal: journal})
	learn(l, z, "web.weft.mesos.", wire.TypeAAAA)
	if n := l.Stats().Resident; n != 2 {
		t.Errorf("%d answers are resident, want 2", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	j, keys, whole, err := openJournal(journal)
	if err != nil || !whole || len(keys) != 2 {
		t.Fatalf("the journal lists %v, whole %v, %v; want both answers", keys, whole, err)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
}

func TestJournalIsRewrittenWhenMostOfItIsPast(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "answers")
	l, z := open(t, Options{Cache: dnstest.NewKernel(), Journal: journal})
	for i := range 3 * (maxMissing + 1024) {
		for range 2 { // at the first there is no place for it
			learn(l, z, fmt.Sprintf("x%d.weft.mesos.", i), wire.TypeA)
		}
	}
	if got := l.Stats().Learned; got < 3*maxMissing {
		t.Errorf("%d answers were learnt, want all", got)
	}
	content, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	keys, whole := parseJournal(content)
	if !whole || len(keys) < maxMissing || len(keys) > 2*maxMissing+1024 {
		t.Errorf("journal has %d records, whole %t, want %d to %d", len(keys), whole, maxMissing, 2*maxMissing+1024)
	}
}

func TestKernelIsAlwaysTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := dnstest.NewKernel()
		l, err := Open(Options{Cache: k, Limit: rapid.SampledFrom([]int{0, 100}).Draw(t, "limit")})
		if err != nil {
			t.Fatal(err)
		}
		l.memory.kernel = false // which passes on a question now and then
		z, diff := zone.New(zone.Options{}).Completed().With([]zone.Change{dnstest.Network("prod", 100, "127.1.0.0/16"), dnstest.Network("dev", 101, "127.2.0.0/16")})
		l.Renew(z, diff, func() {})
		names := []string{
			"a.weft.mesos.", "b.weft.mesos.", "_a._tcp.weft.mesos.", "_http._a._tcp.weft.mesos.", "weft.mesos.", "_tcp.weft.mesos.",
			"a.weft.mesos.thisdcos.directory.", "_a._tcp.weft.mesos.thisdcos.directory.", "weft.mesos.thisdcos.directory.",
			"a.weft.autoip.dcos.thisdcos.directory.", "a.weft.l4lb.thisdcos.directory.", "1.0.1.127.in-addr.arpa.", "2.0.1.127.in-addr.arpa.",
		}
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) {
				vni := rapid.SampledFrom([]uint32{0, 100, 101}).Draw(t, "vni")
				k := Key{VNI: vni, Name: rapid.SampledFrom(names).Draw(t, "name"), Type: rapid.SampledFrom([]uint16{wire.TypeA, wire.TypeAAAA, wire.TypeSRV, wire.TypePTR}).Draw(t, "type")}
				learnIn(l, z, k)
			},
			"change": func(t *rapid.T) {
				var changes []zone.Change
				for range rapid.IntRange(1, 3).Draw(t, "n") {
					a := rapid.SampledFrom([]string{"127.1.0.1", "127.1.0.2", "fd01::1"}).Draw(t, "addr")
					c := dnstest.Task(rapid.SampledFrom([]string{"1", "2"}).Draw(t, "task"), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "label"), a)
					if rapid.IntRange(0, 3).Draw(t, "what") == 0 {
						c = dnstest.Service(rapid.SampledFrom([]string{"prod", "dev"}).Draw(t, "network"), "a.weft", "11.0.0.1")
					}
					if rapid.Bool().Draw(t, "gone") {
						c = dnstest.Gone(c)
					}
					changes = append(changes, c)
				}
				next, diff := z.With(changes)
				z = next
				l.Renew(z, diff, func() {
					if err := k.Same(z, views); err != nil {
						t.Fatal(err)
					}
				})
			},
			"": func(t *rapid.T) {
				if err := k.Same(z, views); err != nil {
					t.Fatal(err)
				}
				if k.Len() > len(l.entries) {
					t.Fatalf("%d in the kernel, %d resident", k.Len(), len(l.entries))
				}
				for key := range l.entries {
					if err := remembered(l.memory, z, key); err != nil {
						t.Fatal(err)
					}
				}
			},
		})
	})
}

func remembered(memory *memory, z *zone.Zone, k Key) error {
	q := new(wire.Msg).SetQuestion(k.Name, k.Type).SetEdns0(maxUDP, false)
	packed, err := q.Pack()
	if err != nil {
		return err
	}
	out, hit := memory.answer(nil, packed, k.VNI)
	if hit == nil {
		return fmt.Errorf("%v is resident and not in memory", k)
	}
	m := new(wire.Msg)
	if err := m.Unpack(out); err != nil {
		return fmt.Errorf("%v: %w", k, err)
	}
	apex, _ := z.Apex(k.Name)
	want := answer.Compose(z, views[k.VNI], apex, k.Name, k.Type)
	got := []any{m.Rcode, m.Id, m.Question, sorted(m.Answer), dnstest.Values(m.Ns), dnstest.Values(m.Extra[:len(m.Extra)-1])}
	if d := cmp.Diff(got, []any{want.Rcode, q.Id, q.Question, sorted(want.Records), dnstest.Values(want.Authority), dnstest.Values(want.Extra)}); d != "" {
		return fmt.Errorf("%v (memory -, zone +):\n%s", k, d)
	}
	return nil
}

func sorted(rrs []wire.RR) []string {
	list := dnstest.Values(rrs)
	slices.Sort(list)
	return list
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(journalMagic + "\x00\x00\x00\x00\x00\x02\x05mesos\x00"))
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, whole := parseJournal(content)
		b := []byte(journalMagic)
		for _, k := range keys {
			var err error
			if b, err = appendKey(b, k); err != nil {
				t.Fatal(err)
			}
		}
		if whole && string(b) != string(content) {
			t.Errorf("%q reads as %q", content, b)
		}
		if len(keys) > 0 && !strings.HasPrefix(string(content), string(b)) {
			t.Errorf("%q reads as %q", content, b)
		}
	})
}
