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

// BenchmarkDelivery is what one replaced task costs a node of a cluster of 1,000 that asked for its name: a row and
// a tombstone on a topic.
func BenchmarkDelivery(b *testing.B) {
	const nodes, topics, writers = 1000, 20, 10
	s, err := Open(Options{Self: "a"})
	if err != nil {
		b.Fatal(err)
	}
	node := func(i int) string { return fmt.Sprintf("node-%d", i) }
	var rows []discovery.Row
	for i := range nodes {
		rows = append(rows, discovery.Row{Writer: node(i), Kind: discovery.KindNode, Key: node(i), Incarnation: 1, Seq: 1, Value: []byte("{}")})
		for j := range 2 {
			key := fmt.Sprintf("prod/app-%d.weft:80/tcp/task-%d", i, j)
			rows = append(rows, discovery.Row{Writer: node(i), Kind: discovery.KindBackend, Key: key, Incarnation: 1, Seq: uint64(j + 2), Value: []byte("{}")})
		}
		for _, kind := range []discovery.Kind{discovery.KindAdmission, discovery.KindBlock} {
			rows = append(rows, discovery.Row{Writer: discovery.Ledger, Kind: kind, Key: node(i), Incarnation: 1, Seq: uint64(i + 1), Value: []byte("{}")})
		}
	}
	if _, err := s.Apply(rows); err != nil {
		b.Fatal(err)
	}
	label := func(i int) string { return fmt.Sprintf("app-%d", i) }
	var take []discovery.Topic
	for i := range topics {
		take = append(take, discovery.NameTopic(label(i)))
	}
	s.Take(take...)
	row := func(of, task int, seq uint64, deleted bool) discovery.Row {
		return discovery.Row{
			Writer: node(of % (topics * writers)), Kind: discovery.KindName, Key: fmt.Sprintf("%s/task-%d", label(of%topics), task),
			Incarnation: 1, Seq: seq, Value: []byte("{}"), Deleted: deleted,
		}
	}
	for i := 0; b.Loop(); i++ {
		of, seq := i%(topics*writers), uint64(2*(i/(topics*writers)))
		next := Batch{
			Stream: discovery.Stream{Writer: node(of), Topic: discovery.NameTopic(label(of % topics))}, Incarnation: 1, From: seq, To: seq + 2,
			Rows: []discovery.Row{row(of, i, seq+1, false)}, Reset: seq == 0,
		}
		if seq > 0 {
			next.Rows = append(next.Rows, row(of, i-topics*writers, seq+2, true))
		}
		if n, err := s.ApplyBatch(next); err != nil || n != len(next.Rows) {
			b.Fatal(n, err)
		}
	}
}
