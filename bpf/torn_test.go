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
	n := newNames(t)
	names := []string{"a.mesos.", "b.mesos.", "c.mesos."}
	span := 2 * time.Second
	if testing.Short() {
		span = 200 * time.Millisecond
	}
	const count = 28 // as many as a row holds
	put := func(name string, number byte) error {
		a := records(typeA, count)
		for i := range count {
			copy(a.Data[16*i+12:], []byte{number, number, number, number})
		}
		return n.answers.Put(0, wire(name), typeA, 0, count, 0, 0, a.Rotate, a.Data[:a.Len])
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
		for i := range count {
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
