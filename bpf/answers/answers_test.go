// SPDX-License-Identifier: Apache-2.0

package answers

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/row"
	"weft/bpf/table"
)

var (
	web = []byte("\x03web\x04weft\x05mesos\x00")
	// One A record: pointer to the question's name, type, class, TTL, length, address.
	record = []byte("\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x01\x00\x05")
)

const typeA = 1

func newCache() (*Cache, *table.Memory[row.DNSKey, row.DNSAnswer], *table.Memory[row.DNSKey, row.DNSLong]) {
	short, long := &table.Memory[row.DNSKey, row.DNSAnswer]{}, &table.Memory[row.DNSKey, row.DNSLong]{}
	return New(short, long), short, long
}

func TestPutIsTheRowThatTheKernelReads(t *testing.T) {
	t.Parallel()
	c, short, long := newCache()
	two, three := bytes.Repeat(record, 2), bytes.Repeat(record, 3)
	if err := errors.Join(c.Put(7, web, typeA, 0, 2, 0, 0, 16, two), c.Put(8, web, typeA, 0, 3, 0, 0, 16, three)); err != nil {
		t.Fatal(err)
	}
	key := row.DNSKeyOf(7, web, typeA)
	want := row.DNSAnswer{Len: 32, Rotate: 16, Ancount: 2}
	copy(want.Data[:], two)
	all, _ := short.All()
	want.Seal(key, all[key].Mark)
	if diff := cmp.Diff(map[row.DNSKey]row.DNSAnswer{key: want}, all); diff != "" {
		t.Errorf("short rows (-want +got):\n%s", diff)
	}
	key = row.DNSKeyOf(8, web, typeA)
	wantLong := row.DNSLong{Len: 48, Rotate: 16, Ancount: 3}
	copy(wantLong.Data[:], three)
	allLong, _ := long.All()
	wantLong.Seal(key, allLong[key].Mark)
	if diff := cmp.Diff(map[row.DNSKey]row.DNSLong{key: wantLong}, allLong); diff != "" {
		t.Errorf("long rows (-want +got):\n%s", diff)
	}
}

// given is what the kernel half says: it looks for a short answer first. Records tell answers apart.
func given(short *table.Memory[row.DNSKey, row.DNSAnswer], long *table.Memory[row.DNSKey, row.DNSLong]) string {
	key := row.DNSKeyOf(7, web, typeA)
	if a, ok, _ := short.Get(key); ok {
		return string(a.Data[:a.Len])
	}
	a, _, _ := long.Get(key)
	return string(a.Data[:a.Len])
}

// TestAnAnswerIsTheOldOrTheNew: whichever write is refused, or is the last before the process is killed, what is given is
// the answer before or the one that was put; then one more change leaves nothing that was hidden. All steps are tried
// between answers of both sizes and none.
func TestAnAnswerIsTheOldOrTheNew(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	// What is put in each step has records of its own; an empty one is a deletion.
	sizes := [][]byte{nil, record, bytes.Repeat(record, 3)}
	cut := func(step byte, size []byte) string {
		return string(bytes.ReplaceAll(size, []byte{0x3c}, []byte{step}))
	}
	const steps = 4
	rounds := 1
	for range steps {
		rounds *= len(sizes) * 3 // each fails at its first write, its second, or not
	}
	for round := range rounds {
		_, short, long := newCache()
		var look func() error
		c := New(&table.Faulty[row.DNSKey, row.DNSAnswer]{Table: short, Fail: func(table.Op, row.DNSKey) error { return look() }},
			&table.Faulty[row.DNSKey, row.DNSLong]{Table: long, Fail: func(table.Op, row.DNSKey) error { return look() }})
		was, rest := "", round
		for step := range byte(steps) {
			now := cut(step, sizes[rest%len(sizes)])
			rest /= len(sizes)
			left := rest % 3
			rest /= 3
			whole := step == steps-1 || left == 2
			look = func() error {
				if is := given(short, long); is != was && is != now {
					t.Fatalf("round %d, step %d: gives %x, was %x, is to be %x", round, step, is, was, now)
				}
				if left == 0 && !whole {
					return refused
				}
				left--
				return nil
			}
			var err error
			if now == "" {
				err = c.Delete(7, web, typeA)
			} else {
				err = c.Put(7, web, typeA, 0, uint16(len(now)/len(record)), 0, 0, 0, []byte(now))
			}
			look = func() error { return nil }
			n, _ := c.Len()
			is := given(short, long)
			switch {
			case is != was && is != now, (err == nil) != whole:
				t.Fatalf("round %d, step %d: gives %x after %v, was %x, is to be %x", round, step, is, err, was, now)
			case whole && (is != now || n != len(now)/max(len(now), 1)):
				t.Fatalf("round %d, step %d: gives %x of %d rows, is to be %x alone", round, step, is, n, now)
			}
			was = is
		}
	}
}

func TestCaseOfTheNameDoesNotMatter(t *testing.T) {
	t.Parallel()
	c, _, _ := newCache()
	if err := c.Put(7, bytes.ToUpper(web), typeA, 3, 0, 0, 0, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(7, web, typeA); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Len(); n != 0 || err != nil {
		t.Errorf("%d answers, %v; want none", n, err)
	}
}

// TestAnswersDifferByViewNameAndType: forgetting one leaves the others.
func TestAnswersDifferByViewNameAndType(t *testing.T) {
	t.Parallel()
	c, _, _ := newCache()
	questions := []struct {
		vni   uint32
		qname string
		qtype uint16
	}{
		{7, string(web), typeA},
		{0, string(web), typeA},
		{7, string(web), 28},
		{7, "\x03web\x00", typeA},
		{7, "\x00", typeA},
	}
	for _, q := range questions {
		if err := c.Put(q.vni, []byte(q.qname), q.qtype, 0, 1, 0, 0, 0, record); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := c.Len(); n != len(questions) || err != nil {
		t.Errorf("%d answers, %v; want %d", n, err, len(questions))
	}
	for i, q := range questions[:2] {
		if err := c.Delete(q.vni, []byte(q.qname), q.qtype); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Len(); n != len(questions)-i-1 || err != nil {
			t.Errorf("%d answers, %v; want %d", n, err, len(questions)-i-1)
		}
	}
	if err := c.Clear(); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Len(); n != 0 || err != nil {
		t.Errorf("%d answers, %v; want none", n, err)
	}
}

func TestPutRefuses(t *testing.T) {
	t.Parallel()
	label := "\x3f" + strings.Repeat("a", 63)
	longest := strings.Repeat(label, 3) + "\x3d" + strings.Repeat("b", 61) + "\x00"
	for _, c := range []struct {
		name  string
		qname string
		rcode uint8
		n     uint16
		step  uint8
		data  []byte
		want  error
	}{
		{"the longest name is taken", longest, 0, 1, 0, record, nil},
		{"all the room is taken", string(web), 0, 28, 16, bytes.Repeat(record, 28), nil},
		{"a byte more is not", string(web), 0, 28, 16, append(bytes.Repeat(record, 28), 0), ErrTooLong},
		{"name of 256 bytes", "\x01c" + longest[1:], 0, 1, 0, record, ErrInvalid},
		{"empty name", "", 0, 1, 0, record, ErrInvalid},
		{"name without root", "\x03web", 0, 1, 0, record, ErrInvalid},
		{"name with something behind the root", "\x03web\x00\x00", 0, 1, 0, record, ErrInvalid},
		{"label beyond the end", "\x09web\x00", 0, 1, 0, record, ErrInvalid},
		{"compression pointer", "\x03web\xc0\x0c", 0, 1, 0, record, ErrInvalid},
		{"rcode of EDNS", string(web), 16, 1, 0, record, ErrInvalid},
		{"rotation beyond the records", string(web), 0, 2, 16, record, ErrInvalid},
		{"rotation by an odd number of bytes", string(web), 0, 1, 15, record, ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cache, _, _ := newCache()
			err := cache.Put(7, []byte(c.qname), typeA, c.rcode, c.n, 0, 0, c.step, c.data)
			if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if n, _ := cache.Len(); (n == 1) != (c.want == nil) {
				t.Errorf("%d rows after error %v", n, err)
			}
		})
	}
}

// FuzzPut: no name makes it panic, and only whole names become rows.
func FuzzPut(f *testing.F) {
	f.Add(web)
	f.Add([]byte("\x3f"))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, qname []byte) {
		c, _, _ := newCache()
		if err := c.Put(7, qname, typeA, 0, 1, 0, 0, 0, record); err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v", err)
			}
			return
		}
		if len(qname) > 255 || qname[len(qname)-1] != 0 {
			t.Errorf("took %q", qname)
		}
	})
}
