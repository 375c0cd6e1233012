// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"weft/discovery"
)

// many makes n rows of 300 bytes by 100 writers.
func many(n int) []discovery.Row {
	value := []byte(strings.Repeat("v", 300))
	rows := make([]discovery.Row, n)
	for i := range rows {
		rows[i] = discovery.Row{
			Writer: fmt.Sprintf("node-%d", i%100), Kind: discovery.KindEndpoint, Key: fmt.Sprintf("task-%d", i),
			Incarnation: 1, Seq: uint64(i + 1), Value: value,
		}
	}
	return rows
}

func BenchmarkApply20000(b *testing.B) {
	rows := many(20_000)
	for b.Loop() {
		s, err := Open(Options{Self: "a", Whole: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Apply(rows); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen20000(b *testing.B) {
	o := Options{Self: "a", Whole: true, Dir: b.TempDir()}
	s, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Apply(many(20_000)); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(o)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	s, err := Open(Options{Self: "a", Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for i := 0; b.Loop(); i++ {
		if err := s.Put("name", "x", fmt.Append(nil, i)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRows20000(b *testing.B) {
	s, err := Open(Options{Self: "a", Whole: true})
	if err != nil {
		b.Fatal(err)
	}
	var before, after runtime.MemStats
	rows := many(20_000)
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := s.Apply(rows); err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	for b.Loop() {
		if n := len(s.Rows(discovery.KindEndpoint)); n != len(rows) {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(rows)), "B-without-value/row")
}

// BenchmarkNext is what one change costs each of the streams of a master.
func BenchmarkNext(b *testing.B) {
	s, err := Open(Options{Self: "a", Whole: true})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Apply(many(20_000)); err != nil {
		b.Fatal(err)
	}
	c := s.Cursor(s.Digest())
	for range c.Next() {
	}
	for i := 0; b.Loop(); i++ {
		if err := s.Put("name", "x", fmt.Append(nil, i)); err != nil {
			b.Fatal(err)
		}
		n := 0
		for range c.Next() {
			n++
		}
		if n != 1 {
			b.Fatalf("%d batches for one change", n)
		}
	}
}
