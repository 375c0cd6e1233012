// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"
	"pgregory.net/rapid"

	"weft/discovery"
	"weft/discovery/zone"
)

// kernel is a cache as bpf's is: it knows questions by their bytes only.
type kernel struct {
	mu      sync.Mutex
	answers map[string]stored
	deaf    bool   // refuses changes
	changed func() // called before each change
	puts    int
}

type stored struct {
	rcode, rotate  uint8
	an, ns, ar     uint16
	qname, records []byte
	vni            uint32
	qtype          uint16
}

var errDeaf = errors.New("deaf")

func newKernel() *kernel { return &kernel{answers: map[string]stored{}} }

func kernelKey(vni uint32, qname []byte, qtype uint16) string {
	return fmt.Sprint(vni, qtype, string(qname))
}

func (k *kernel) Put(vni uint32, qname []byte, qtype uint16, rcode uint8, an, ns, ar uint16, rotate uint8, data []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changed != nil {
		k.changed()
	}
	if k.deaf {
		return errDeaf
	}
	k.puts++
	k.answers[kernelKey(vni, qname, qtype)] = stored{
		rcode, rotate, an, ns, ar, append([]byte{}, qname...), append([]byte{}, data...), vni, qtype,
	}
	return nil
}

func (k *kernel) Delete(vni uint32, qname []byte, qtype uint16) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changed != nil {
		k.changed()
	}
	if k.deaf {
		return errDeaf
	}
	delete(k.answers, kernelKey(vni, qname, qtype))
	return nil
}

func (k *kernel) Clear() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.deaf {
		return errDeaf
	}
	clear(k.answers)
	return nil
}

func (k *kernel) len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.answers)
}

func (k *kernel) get(vni uint32, name string, qtype uint16) (stored, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	qname, _ := wireName(name)
	a, ok := k.answers[kernelKey(vni, qname, qtype)]
	return a, ok
}

func (k *kernel) observe(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changed = f
}

func (k *kernel) hear(yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deaf = !yes
}

// message is what the kernel would send for an answer.
func (a stored) message() (*wire.Msg, error) {
	b := make([]byte, 12, 512)
	binary.BigEndian.PutUint16(b[2:], 0x8400|uint16(a.rcode)) // QR, AA
	for i, n := range []uint16{1, a.an, a.ns, a.ar} {
		binary.BigEndian.PutUint16(b[4+2*i:], n)
	}
	b = append(b, a.qname...)
	b = binary.BigEndian.AppendUint16(b, a.qtype)
	b = binary.BigEndian.AppendUint16(b, wire.ClassINET)
	m := new(wire.Msg)
	return m, m.Unpack(append(b, a.records...))
}

// same compares what is in the kernel with what a zone answers; each answer has to be equal.
func (k *kernel) same(z *zone.Zone, networks map[uint32]string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, a := range k.answers {
		m, err := a.message()
		if err != nil {
			return fmt.Errorf("%q: %w", a.qname, err)
		}
		name := m.Question[0].Name
		apex, own := z.Apex(name)
		if !own {
			return fmt.Errorf("%s is in the kernel and is foreign", name)
		}
		want := compose(z, networks[a.vni], apex, name, a.qtype)
		if d := cmp.Diff(
			[]any{m.Rcode, values(m.Answer), values(m.Ns), values(m.Extra)},
			[]any{want.rcode, values(slices.Concat(want.chain, want.records)), values(want.authority), values(want.extra)},
		); d != "" {
			return fmt.Errorf("%d %s %s (kernel -, zone +):\n%s", a.vni, name, wire.Type(a.qtype), d)
		}
		if size := int(a.rotate); size > 0 && size*int(a.an) != len(a.records) {
			return fmt.Errorf("%s rotates %d bytes of %d records in %d", name, size, a.an, len(a.records))
		}
	}
	return nil
}

var views = map[uint32]string{0: "", 100: "prod", 101: "dev"}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// resident waits until n answers are in the kernel: they are put after the asker has the answer.
func (f *fixture) resident(n int) {
	f.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); f.Stats().Resident != n; {
		if time.Now().After(deadline) {
			f.t.Fatalf("%d answers resident, want %d", f.Stats().Resident, n)
		}
	}
}

func TestAnswersAreLearnt(t *testing.T) {
	k := newKernel()
	f := start(t, Options{Cache: k, CacheLimit: 448}, sample())
	f.query("wEb.wEft.mesos.", wire.TypeA)
	f.query("web.weft.mesos.", wire.TypeA)
	f.query("web.weft.mesos.", wire.TypeAAAA)
	f.query("_web._tcp.weft.mesos.", wire.TypeSRV)
	f.query("nothing.mesos.", wire.TypeA)
	f.query("web.weft.mesos.", wire.TypeMX)
	f.query("2.0.1.127.in-addr.arpa.", wire.TypePTR)
	f.resident(6)
	f.query("web.weft.mesos.", wire.TypeANY) // never
	f.query("many.weft.mesos.", wire.TypeA)  // too long for the kernel
	f.query("example.com.", wire.TypeA)      // foreign
	m := new(wire.Msg).SetQuestion("weft.mesos.", wire.TypeA)
	f.ask(m, "tcp", "") // the kernel sees UDP only
	f.ask(m, "udp", "127.1.0.9")
	f.resident(8)
	if k.len() != 7 {
		t.Errorf("%d answers in the kernel, want 7", k.len())
	}
	if err := k.same(f.z, views); err != nil {
		t.Error(err)
	}
	if a, _ := k.get(0, "web.weft.mesos.", wire.TypeA); a.rotate != 16 || a.an != 2 {
		t.Errorf("A rotates %d of %d records, want 16 of 2", a.rotate, a.an)
	}
	if _, ok := k.get(100, "weft.mesos.", wire.TypeA); !ok {
		t.Error("the answer to a task of prod is not under its VNI")
	}
}

// Exactly what a change makes untrue is replaced, and before the new zone is served.
func TestChangeReplacesWhatItMakesUntrue(t *testing.T) {
	k := newKernel()
	f := start(t, Options{Cache: k}, sample())
	for name, qtype := range map[string]uint16{
		"web.weft.mesos.": wire.TypeA, "_web._tcp.weft.mesos.": wire.TypeSRV, "new.weft.mesos.": wire.TypeA,
		"web.weft.l4lb.thisdcos.directory.": wire.TypeA, "many-5hejh-a.weft.mesos.": wire.TypeA,
		"x.other.mesos.": wire.TypeA, "other.mesos.": wire.TypeA,
	} {
		f.query(name, qtype)
	}
	f.resident(7)
	check := func(want int, c zone.Change) {
		t.Helper()
		before := f.Stats().Renewed
		old := f.zone.Load()
		k.observe(func() {
			if f.zone.Load() != old {
				t.Error("the kernel was changed after the zone was served")
			}
		})
		f.change(c)
		k.observe(nil)
		if got := int(f.Stats().Renewed - before); got != want {
			t.Errorf("%d answers renewed, want %d", got, want)
		}
		if err := k.same(f.z, views); err != nil {
			t.Error(err)
		}
	}
	check(2, task("t2", "web", "127.1.0.77"))         // A, and SRV for its additional record
	check(1, task("t9", "new", "127.1.0.9"))          // NXDOMAIN no more
	check(1, gone(task("t9", "new", "127.1.0.9")))    // and again
	check(0, task("t3", "third", "127.1.0.4"))        // nobody asked
	check(1, service("prod", "web.weft", "11.0.0.8")) // a VIP
	other := task("t4", "y", "127.1.0.5")
	other.Fact = zone.Task{Name: discovery.Name{
		Task: "t4", Label: "y", Framework: "other", Addrs: addrs("127.1.0.5"),
	}}
	check(1, other) // other.mesos exists now; x.other.mesos still does not
}

func TestViewsOfARemovedNetworkGo(t *testing.T) {
	k := newKernel()
	f := start(t, Options{Cache: k}, sample())
	f.ask(new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA), "udp", "127.2.0.5")
	f.query("web.weft.mesos.", wire.TypeA)
	f.query("9.9.2.127.in-addr.arpa.", wire.TypePTR)
	f.resident(3)
	f.change(gone(network("dev", 101, "127.2.0.0/16")))
	f.resident(1)
	if err := k.same(f.z, views); err != nil || k.len() != 1 {
		t.Errorf("%d answers in the kernel, want 1: %v", k.len(), err)
	}
}

func TestMissingNamesPushOutNoAnswer(t *testing.T) {
	k := newKernel()
	f := start(t, Options{Cache: k}, sample())
	z := f.zone.Load()
	learn := func(name string) {
		f.learner.learn(&question{name: name, qtype: wire.TypeA, zone: z})
	}
	learn("web.weft.mesos.")
	for i := range maxMissing + 50 {
		learn(fmt.Sprintf("x%d.weft.mesos.", i))
	}
	if _, ok := k.get(0, "web.weft.mesos.", wire.TypeA); !ok || k.len() != maxMissing+1 {
		t.Errorf("%d answers, web among them %t, want %d", k.len(), ok, maxMissing+1)
	}
	if f.Stats().Resident != k.len() {
		t.Errorf("%d resident, %d in the kernel", f.Stats().Resident, k.len())
	}
}

// An answer composed from a zone that is no longer served is not learnt.
func TestOldZoneTeachesNothing(t *testing.T) {
	k := newKernel()
	f := start(t, Options{Cache: k}, sample())
	old := f.zone.Load()
	f.change(task("t9", "new", "127.1.0.9"))
	f.learner.learn(&question{name: "new.weft.mesos.", qtype: wire.TypeA, zone: old})
	if k.len() != 0 {
		t.Error("the kernel learnt from an old zone")
	}
}

func TestRefusedChangeIsTriedAgain(t *testing.T) {
	k := newKernel()
	f := start(t, Options{Cache: k}, sample())
	f.query("web.weft.mesos.", wire.TypeA)
	f.resident(1)
	k.hear(false)
	f.change(task("t2", "web", "127.1.0.77"))
	k.hear(true)
	f.change() // or the next second
	if k.len() != 0 {
		t.Errorf("an untrue answer is in the kernel: %v", k.same(f.z, views))
	}
	if got := f.Stats(); got.Unkept != 1 {
		t.Errorf("stats = %+v, want 1 unkept", got)
	}
}

func TestNextProcessKeepsAnswersTrue(t *testing.T) {
	k := newKernel()
	journal := filepath.Join(t.TempDir(), "answers")
	first := start(t, Options{Cache: k, Journal: journal}, sample())
	first.query("web.weft.mesos.", wire.TypeA)
	first.query("web.weft.mesos.", wire.TypeAAAA)
	first.query("new.weft.mesos.", wire.TypeA)
	first.ask(new(wire.Msg).SetQuestion("web.weft.mesos.", wire.TypeA), "udp", "127.2.0.5")
	first.resident(4)
	first.stop()

	s, err := Open(Options{Cache: k, Journal: journal, Listen: first.Addrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	if got := s.Stats().Resident; got != 4 {
		t.Fatalf("%d resident after the start, want 4", got)
	}
	// What the node knows of from its disk is made true at once, the rest when it has heard all.
	z, diff := zone.New(zone.Options{}).With([]zone.Change{network("prod", 100, "127.1.0.0/16"), network("dev", 101, "127.2.0.0/16")})
	s.SetZone(z, diff)
	if k.len() != 4 {
		t.Errorf("%d answers in the kernel before the names are known, want 4", k.len())
	}
	z, diff = z.With([]zone.Change{task("t1", "web", "127.1.0.55"), task("t9", "new", "127.1.0.9")})
	s.SetZone(z, diff)
	s.SetZone(z.Completed(), zone.Diff{})
	if err := k.same(z, views); err != nil || k.len() != 4 {
		t.Errorf("%d answers in the kernel, want 4: %v", k.len(), err)
	}
}

// TestJournalIsUsedAsItIsWhenNoNewOneCanBeWritten: a full disk keeps no name server from starting.
func TestJournalIsUsedAsItIsWhenNoNewOneCanBeWritten(t *testing.T) {
	k := newKernel()
	journal := filepath.Join(t.TempDir(), "answers")
	first := start(t, Options{Cache: k, Journal: journal}, sample())
	first.query("web.weft.mesos.", wire.TypeA)
	first.resident(1)
	first.stop()
	if err := os.Mkdir(journal+".new", 0o700); err != nil { // so that no file can have the name
		t.Fatal(err)
	}
	second := start(t, Options{Cache: k, Journal: journal}, sample())
	second.query("web.weft.mesos.", wire.TypeAAAA)
	second.resident(2)
	second.stop()
	j, keys, whole, err := openJournal(journal)
	if err != nil || !whole || len(keys) != 2 {
		t.Fatalf("the journal lists %v, whole %v, %v; want both answers", keys, whole, err)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
}

func TestBrokenJournalClearsOnceTheZoneIsKnown(t *testing.T) {
	for _, content := range []string{"", "weftdns1\x00\x00", "weftdns1\x00\x00\x00\x00\x00\x01\x03web\xc0\x00", "nonsense"} {
		k := newKernel()
		if err := k.Put(0, []byte("\x01x\x00"), 1, 0, 0, 0, 0, 0, nil); err != nil {
			t.Fatal(err)
		}
		journal := filepath.Join(t.TempDir(), "answers")
		if content != "" {
			write(t, journal, content)
		}
		f := start(t, Options{Cache: k, Journal: journal}, nil)
		if k.len() != 0 {
			t.Errorf("journal %q: the kernel still has %d answers", content, k.len())
		}
		f.query("mesos.", wire.TypeNS)
		f.resident(1)
		f.stop()
		got, err := os.ReadFile(journal)
		if want := journalMagic + "\x00\x00\x00\x00\x00\x02\x05mesos\x00"; err != nil || string(got) != want {
			t.Errorf("journal is %q, %v, want %q", got, err, want)
		}
	}
}

func TestJournalIsRewrittenWhenMostOfItIsPast(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "answers")
	f := start(t, Options{Cache: newKernel(), Journal: journal}, sample())
	z := f.zone.Load()
	for i := range 3 * (maxMissing + 1024) {
		f.learner.learn(&question{name: fmt.Sprintf("x%d.weft.mesos.", i), qtype: wire.TypeA, zone: z})
	}
	f.stop()
	content, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	keys, whole := parseJournal(content)
	if !whole || len(keys) < maxMissing || len(keys) > 2*maxMissing+1024 {
		t.Errorf("journal has %d records, whole %t, want %d to %d", len(keys), whole, maxMissing, 2*maxMissing+1024)
	}
}

// Whatever changes and whoever asks, what the kernel answers is what the zone answers, at every step.
func TestKernelIsAlwaysTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newKernel()
		l, err := newLearner(&Options{Cache: k, CacheLimit: rapid.SampledFrom([]int{0, 100}).Draw(t, "limit")}, newMemory(), nil)
		if err != nil {
			t.Fatal(err)
		}
		z, diff := zone.New(zone.Options{}).Completed().With([]zone.Change{network("prod", 100, "127.1.0.0/16"), network("dev", 101, "127.2.0.0/16")})
		l.renew(z, diff, func() {})
		names := []string{
			"a.weft.mesos.", "b.weft.mesos.", "_a._tcp.weft.mesos.", "_http._a._tcp.weft.mesos.", "weft.mesos.", "_tcp.weft.mesos.",
			"a.weft.mesos.thisdcos.directory.", "_a._tcp.weft.mesos.thisdcos.directory.", "weft.mesos.thisdcos.directory.",
			"a.weft.autoip.dcos.thisdcos.directory.", "a.weft.l4lb.thisdcos.directory.", "1.0.1.127.in-addr.arpa.", "2.0.1.127.in-addr.arpa.",
		}
		t.Repeat(map[string]func(*rapid.T){
			"ask": func(t *rapid.T) {
				vni := rapid.SampledFrom([]uint32{0, 100, 101}).Draw(t, "vni")
				l.learn(&question{
					name: rapid.SampledFrom(names).Draw(t, "name"), zone: z, vni: vni, network: views[vni],
					qtype: rapid.SampledFrom([]uint16{wire.TypeA, wire.TypeAAAA, wire.TypeSRV, wire.TypePTR}).Draw(t, "type"),
				})
			},
			"change": func(t *rapid.T) {
				var changes []zone.Change
				for range rapid.IntRange(1, 3).Draw(t, "n") {
					a := rapid.SampledFrom([]string{"127.1.0.1", "127.1.0.2", "fd01::1"}).Draw(t, "addr")
					c := task(rapid.SampledFrom([]string{"1", "2"}).Draw(t, "task"), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "label"), a)
					if rapid.IntRange(0, 3).Draw(t, "what") == 0 {
						c = service(rapid.SampledFrom([]string{"prod", "dev"}).Draw(t, "network"), "a.weft", "11.0.0.1")
					}
					if rapid.Bool().Draw(t, "gone") {
						c = gone(c)
					}
					changes = append(changes, c)
				}
				next, diff := z.With(changes)
				z = next
				l.renew(z, diff, func() {
					if err := k.same(z, views); err != nil {
						t.Fatal(err)
					}
				})
			},
			"": func(t *rapid.T) {
				if err := k.same(z, views); err != nil {
					t.Fatal(err)
				}
				if k.len() > len(l.entries) {
					t.Fatalf("%d in the kernel, %d resident", k.len(), len(l.entries))
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

// remembered compares what memory answers to a question with what a zone does.
func remembered(memory *memory, z *zone.Zone, k residentKey) error {
	q := new(wire.Msg).SetQuestion(k.name, k.qtype).SetEdns0(maxUDP, false)
	packed, err := q.Pack()
	if err != nil {
		return err
	}
	out, hit := memory.answer(nil, packed, k.vni)
	if hit == nil {
		return fmt.Errorf("%v is resident and not in memory", k)
	}
	m := new(wire.Msg)
	if err := m.Unpack(out); err != nil {
		return fmt.Errorf("%v: %w", k, err)
	}
	apex, _ := z.Apex(k.name)
	want := compose(z, views[k.vni], apex, k.name, k.qtype)
	got := []any{m.Rcode, m.Id, m.Question, sorted(m.Answer), values(m.Ns), values(m.Extra[:len(m.Extra)-1])}
	if d := cmp.Diff(got, []any{want.rcode, q.Id, q.Question, sorted(want.records), values(want.authority), values(want.extra)}); d != "" {
		return fmt.Errorf("%v (memory -, zone +):\n%s", k, d)
	}
	return nil
}

func sorted(rrs []wire.RR) []string {
	list := values(rrs)
	slices.Sort(list)
	return list
}

// The second answer comes from memory; nobody can tell, but that it is quicker.
func TestMemoryAnswersAsTheLongWay(t *testing.T) {
	f := start(t, Options{}, sample())
	questions := []*wire.Msg{
		new(wire.Msg).SetQuestion("wEb.weft.mesos.", wire.TypeA),
		new(wire.Msg).SetQuestion("_web._tcp.weft.mesos.", wire.TypeSRV).SetEdns0(4096, true),
		new(wire.Msg).SetQuestion("nothing.mesos.", wire.TypeAAAA),
		new(wire.Msg).SetQuestion("many.weft.mesos.", wire.TypeA),
		new(wire.Msg).SetQuestion("many.weft.mesos.", wire.TypeA).SetEdns0(1232, false),
	}
	questions[2].CheckingDisabled = true
	for _, q := range questions {
		before := f.Stats()
		first := f.ask(q, "udp", "")
		key := residentKey{0, strings.ToLower(q.Question[0].Name), q.Question[0].Qtype}
		for deadline := time.Now().Add(5 * time.Second); remembered(f.memory, f.z, key) != nil && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		second := f.ask(q, "udp", "")
		for _, m := range []*wire.Msg{first, second} {
			m.Answer = nil // turned
		}
		if d := cmp.Diff(first.String(), second.String()); d != "" {
			t.Errorf("%s: first -, second +:\n%s", q.Question[0].Name, d)
		}
		if got := f.Stats().Own - before.Own; got != 2 {
			t.Errorf("%s: %d questions counted, want 2", q.Question[0].Name, got)
		}
	}
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

func dialFrom(transport, from string) *net.Dialer {
	if transport == "tcp" {
		return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	}
	return &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}
}
