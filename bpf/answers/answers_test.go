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

func newCache() (*Cache, *table.Memory[row.DNSKey, row.DNSAnswer]) {
	rows := &table.Memory[row.DNSKey, row.DNSAnswer]{}
	return New(rows), rows
}

func TestPutIsTheRowThatTheKernelReads(t *testing.T) {
	t.Parallel()
	c, rows := newCache()
	if err := c.Put(7, web, typeA, 0, 2, 0, 0, 16, append(record, record...)); err != nil {
		t.Fatal(err)
	}
	key := row.DNSKeyOf(7, web, typeA)
	want := row.DNSAnswer{Len: 32, Rotate: 16, Ancount: 2}
	copy(want.Data[:], append(record, record...))
	all, _ := rows.All()
	want.Seal(key, all[key].Mark)
	if diff := cmp.Diff(map[row.DNSKey]row.DNSAnswer{key: want}, all); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestCaseOfTheNameDoesNotMatter(t *testing.T) {
	t.Parallel()
	c, _ := newCache()
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
	c, _ := newCache()
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
			cache, rows := newCache()
			err := cache.Put(7, []byte(c.qname), typeA, c.rcode, c.n, 0, 0, c.step, c.data)
			if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if all, _ := rows.All(); (len(all) == 1) != (c.want == nil) {
				t.Errorf("%d rows after error %v", len(all), err)
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
		c, _ := newCache()
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
