// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"weft/bpf"
)

// shelf holds what tests gave back, by what it was loaded with.
type shelf[T any] struct {
	sync.Mutex
	kept map[any][]T
}

var (
	sets   shelf[*Set]
	planes shelf[*bpf.Plane]
)

// Borrow returns a set until the test ends: what load returns, or one of an earlier test with an equal key, whose maps
// are empty again. To verify and compile the programs takes the kernel 100 ms, and an emulated one seconds: longer than
// most tests run packets through them. A set of a test that failed is not lent again.
func Borrow(tb testing.TB, key any, load func() (*Set, error)) *Set {
	tb.Helper()
	return sets.borrow(tb, key, load, (*Set).empty, (*Set).Close)
}

// BorrowPlane is Borrow for a Plane that pins nothing. Whoever attaches it to what outlives the test detaches it, too.
func BorrowPlane(tb testing.TB, o bpf.Options) *bpf.Plane {
	tb.Helper()
	if o.Pin != "" {
		tb.Fatalf("a plane that is pinned to %s is its test's own", o.Pin)
	}
	type opened struct {
		config bpf.Config
		edge   bool
	}
	return planes.borrow(tb, opened{o.Config, o.Edge}, func() (*bpf.Plane, error) { return bpf.Open(o) },
		func(p *bpf.Plane) error { return errors.Join(p.SetTracing(false), emptyAll(p.Maps())) },
		func(p *bpf.Plane) {
			if err := p.Close(); err != nil {
				tb.Error(err)
			}
		})
}

func (s *shelf[T]) borrow(tb testing.TB, key any, load func() (T, error), empty func(T) error, closed func(T)) T {
	tb.Helper()
	lent, ok := s.take(key)
	var err error
	if ok {
		err = empty(lent)
	} else {
		lent, err = load()
	}
	if err != nil {
		tb.Fatalf("%+v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			closed(lent)
			return
		}
		s.Lock()
		defer s.Unlock()
		if s.kept == nil {
			s.kept = make(map[any][]T)
		}
		s.kept[key] = append(s.kept[key], lent)
	})
	return lent
}

func (s *shelf[T]) take(key any) (lent T, ok bool) {
	s.Lock()
	defer s.Unlock()
	all := s.kept[key]
	if len(all) == 0 {
		return lent, false
	}
	last := len(all) - 1
	s.kept[key] = all[:last]
	return all[last], true
}

// empty makes all maps of a set what they were when it was loaded.
func (s *Set) empty() error {
	clear(s.counted)
	return emptyAll(s.Maps)
}

func emptyAll(all map[string]*ebpf.Map) error {
	for name, m := range all {
		if strings.HasPrefix(name, ".rodata") { // frozen
			continue
		}
		if err := empty(m); err != nil {
			return fmt.Errorf("empty %s: %w", name, err)
		}
	}
	return nil
}

func empty(m *ebpf.Map) error {
	switch m.Type() {
	case ebpf.SkStorage: // gone with the sockets
		return nil
	case ebpf.RingBuf:
		return drain(m)
	case ebpf.Array:
		return zero(m)
	case ebpf.PerCPUArray:
		return zeroPerCPU(m)
	default:
		return clearKeys(m)
	}
}

// clearKeys goes through a table once: to look for the first key again and again would go through its empty part as often.
func clearKeys(m *ebpf.Map) error {
	var keys [][]byte
	for key, err := m.NextKeyBytes(nil); key != nil || err != nil; key, err = m.NextKeyBytes(key) {
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) { // the kernel drops the oldest itself
			return err
		}
	}
	return nil
}

// zero writes all of an array by one call: there are thousands of elements, most of them zero.
func zero(m *ebpf.Map) error {
	count := int(m.MaxEntries())
	keys := make([]uint32, count)
	for i := range keys {
		keys[i] = uint32(i)
	}
	element := reflect.ArrayOf(int(m.ValueSize()), reflect.TypeFor[byte]())
	_, err := m.BatchUpdate(keys, reflect.MakeSlice(reflect.SliceOf(element), count, count).Interface(), nil)
	return err
}

func zeroPerCPU(m *ebpf.Map) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	values := make([][]byte, cpus)
	for i := range values {
		values[i] = make([]byte, m.ValueSize())
	}
	for i := range m.MaxEntries() {
		if err := m.Put(i, values); err != nil {
			return err
		}
	}
	return nil
}

// drain reads events that nobody read.
func drain(m *ebpf.Map) error {
	ring, err := ringbuf.NewReader(m)
	if err != nil {
		return err
	}
	ring.SetDeadline(time.Unix(1, 0)) // what is there is read all the same
	for err == nil {
		_, err = ring.Read()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return errors.Join(err, ring.Close())
}
