// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"
)

// A few names get other answers as fast as the kernel takes them, so that rows are reused for the same
// name while a question reads them. Each answer is one that was put, whole: all its records have the
// same number.
func TestAnswersThatChangeAreNeverTorn(t *testing.T) {
	for name, counts := range map[string][]int{"short": {2}, "long": {28}, "of either size": {2, 28, 1, 3}} {
		t.Run(name, func(t *testing.T) { neverTorn(t, counts) })
	}
}

// neverTorn changes answers of so many records, by turns; 28 are as many as a row holds.
func neverTorn(t *testing.T, counts []int) {
	t.Helper()
	n := newNames(t)
	names := []string{"a.mesos.", "b.mesos.", "c.mesos."}
	span := 2 * time.Second
	if testing.Short() {
		span = 200 * time.Millisecond
	}
	put := func(name string, number byte) error {
		count := counts[int(number)%len(counts)]
		a := records(typeA, count)
		for i := range count {
			copy(a.Data[16*i+12:], []byte{number, number, number, number})
		}
		return n.answers.Put(0, wire(name), typeA, 0, uint16(count), 0, 0, a.Rotate, a.Data[:a.Len])
	}
	for _, name := range names {
		if err := put(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	changed := make(chan int, 1)
	go func() {
		changes := 0
		for ; !stop.Load(); changes++ {
			if err := put(names[changes%len(names)], byte(changes)); err != nil {
				t.Error(err)
				break
			}
		}
		changed <- changes
	}()
	asked, passed := 0, 0
	q := make([]question, len(names))
	for i, name := range names {
		q[i] = ask(name, typeA).edns(1232, 0, nil)
	}
	for end := time.Now().Add(span); time.Now().Before(end); asked++ {
		one := q[asked%len(q)]
		frame := one.frame()
		_, out := n.run(frame)
		m, err := one.check(out)
		if err != nil {
			if passed++; !bytes.Equal(out, frame) {
				t.Fatalf("neither answered (%v) nor left as it was for the server:\n%x\n%x", err, frame, out)
			}
			continue
		}
		data := m[len(one.message())-11 : len(m)-11]
		if want := 16 * counts[int(data[12])%len(counts)]; len(data) != want {
			t.Fatalf("%d bytes after %d answers, want %d: %x", len(data), asked, want, data)
		}
		for i := range len(data) / 16 {
			for _, b := range data[16*i+12 : 16*i+16] {
				if b != data[12] {
					t.Fatalf("torn after %d answers: %x", asked, data)
				}
			}
		}
	}
	stop.Store(true)
	changes := <-changed
	if passed == asked {
		t.Error("no question was answered")
	}
	t.Logf("%d changes in %v, %d questions, of which %d were left to the server", changes, span, asked, passed)
}
