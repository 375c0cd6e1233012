// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

// shelf holds the sets that tests gave back, by what they were loaded with.
var shelf struct {
	sync.Mutex
	sets map[any][]*Set
}

// Borrow returns a set until the test ends: what load returns, or one of an earlier test with an equal key, whose maps
// are empty again. To verify and compile the programs takes the kernel 100 ms, and an emulated one seconds: longer than
// most tests run packets through them. A set of a test that failed is not lent again.
func Borrow(tb testing.TB, key any, load func() (*Set, error)) *Set {
	tb.Helper()
	s, err := take(key)
	if s == nil && err == nil {
		s, err = load()
	}
	if err != nil {
		tb.Fatalf("%+v", err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			s.Close()
			return
		}
		shelf.Lock()
		defer shelf.Unlock()
		shelf.sets[key] = append(shelf.sets[key], s)
	})
	return s
}

// take returns a set of the shelf, or nil.
func take(key any) (*Set, error) {
	shelf.Lock()
	defer shelf.Unlock()
	if shelf.sets == nil {
		shelf.sets = make(map[any][]*Set)
	}
	all := shelf.sets[key]
	if len(all) == 0 {
		return nil, nil
	}
	last := len(all) - 1
	shelf.sets[key] = all[:last]
	return all[last], all[last].empty()
}

// empty makes all maps of a set what they were when it was loaded.
func (s *Set) empty() error {
	for name, m := range s.Maps {
		if strings.HasPrefix(name, ".rodata") { // frozen
			continue
		}
		if err := empty(m); err != nil {
			return fmt.Errorf("empty %s: %w", name, err)
		}
	}
	clear(s.counted)
	return nil
}

func empty(m *ebpf.Map) error {
	switch m.Type() {
	case ebpf.SkStorage: // gone with the sockets
		return nil
	case ebpf.RingBuf:
		return drain(m)
	case ebpf.Array:
		return zero(m, make([]byte, m.ValueSize()))
	case ebpf.PerCPUArray:
		cpus, err := ebpf.PossibleCPU()
		if err != nil {
			return err
		}
		values := make([][]byte, cpus)
		for i := range values {
			values[i] = make([]byte, m.ValueSize())
		}
		return zero(m, values)
	default:
		return clearKeys(m)
	}
}

func clearKeys(m *ebpf.Map) error {
	for {
		key, err := m.NextKeyBytes(nil)
		if key == nil || err != nil {
			return err
		}
		if err := m.Delete(key); err != nil {
			return err
		}
	}
}

func zero(m *ebpf.Map, value any) error {
	for i := range m.MaxEntries() {
		if err := m.Put(i, value); err != nil {
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
