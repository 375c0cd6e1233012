// SPDX-License-Identifier: Apache-2.0

package table

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ErrFull says that a map of the kernel half holds as many rows as it can.
var ErrFull = errors.New("map is full")

// chunk is how many rows a batch call carries: large enough that the call's own cost vanishes
// (about 2 us against 0.1 us a row), small enough that its buffers stay below a megabyte.
const chunk = 1024

// Kernel is a Table over a map of the kernel half.
type Kernel[K comparable, V comparable] struct {
	m    *ebpf.Map
	name string
}

// NewKernel returns the Table of m. It refuses a map whose keys or values have another size than K
// and V; name is what errors call it.
func NewKernel[K comparable, V comparable](m *ebpf.Map, name string) (*Kernel[K, V], error) {
	var key K
	var value V
	if k, v := unsafe.Sizeof(key), unsafe.Sizeof(value); uintptr(m.KeySize()) != k || uintptr(m.ValueSize()) != v {
		return nil, fmt.Errorf("map %s has keys of %d and values of %d bytes, its rows %d and %d",
			name, m.KeySize(), m.ValueSize(), k, v)
	}
	return &Kernel[K, V]{m: m, name: name}, nil
}

// Get implements Table.
func (t *Kernel[K, V]) Get(key K) (V, bool, error) {
	var value V
	err := t.m.Lookup(key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	if err != nil {
		return value, false, fmt.Errorf("read map %s: %w", t.name, err)
	}
	return value, true, nil
}

// Put implements Table.
func (t *Kernel[K, V]) Put(key K, value V) error {
	return t.refused("write", t.m.Update(key, value, ebpf.UpdateAny))
}

// Delete implements Table.
func (t *Kernel[K, V]) Delete(key K) error {
	err := t.m.Delete(key)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return t.refused("delete from", err)
}

// All implements Table. While the kernel half writes the map too, rows that come or go meanwhile may
// or may not be among them.
func (t *Kernel[K, V]) All() (map[K]V, error) {
	all := make(map[K]V)
	size := min(chunk, int(t.m.MaxEntries()))
	for {
		err := t.readBatches(size, all)
		// A hash bucket must fit into the batch as a whole.
		if errors.Is(err, unix.ENOSPC) && size < int(t.m.MaxEntries()) {
			size = min(2*size, int(t.m.MaxEntries()))
			continue
		}
		if errors.Is(err, ebpf.ErrNotSupported) {
			return t.walk()
		}
		if err != nil {
			return nil, fmt.Errorf("read map %s: %w", t.name, err)
		}
		return all, nil
	}
}

func (t *Kernel[K, V]) readBatches(size int, all map[K]V) error {
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := t.m.BatchLookup(&cursor, keys, values, nil)
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return err
		}
		for i := range n {
			all[keys[i]] = values[i]
		}
		if last {
			return nil
		}
	}
}

// walk reads row by row, for map types without batches.
func (t *Kernel[K, V]) walk() (map[K]V, error) {
	all := make(map[K]V)
	var key K
	var value V
	rows := t.m.Iterate()
	for rows.Next(&key, &value) {
		all[key] = value
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read map %s: %w", t.name, err)
	}
	return all, nil
}

// PutMany writes rows in few calls, in order, and goes on behind a row that is refused. It returns
// why, by index.
func (t *Kernel[K, V]) PutMany(keys []K, values []V) map[int]error {
	return batches(len(keys), func(from, to int) (int, error) {
		n, err := t.m.BatchUpdate(keys[from:to], values[from:to], nil)
		return n, t.refused("write", err)
	}, func(i int) error { return t.Put(keys[i], values[i]) })
}

// DeleteMany removes rows in few calls, as PutMany writes them.
func (t *Kernel[K, V]) DeleteMany(keys []K) map[int]error {
	return batches(len(keys), func(from, to int) (int, error) {
		n, err := t.m.BatchDelete(keys[from:to], nil)
		return n, t.refused("delete from", err)
	}, func(i int) error { return t.Delete(keys[i]) })
}

// batches runs many over n rows. The kernel stops at the first row that it refuses: that row goes to
// one, which says what is wrong with it (or that nothing is, such as deleting what is not there), and
// many goes on behind it.
func batches(n int, many func(from, to int) (int, error), one func(i int) error) map[int]error {
	failed := make(map[int]error)
	for from := 0; from < n; {
		to := min(n, from+chunk)
		done, err := many(from, to)
		if err == nil {
			from = to
			continue
		}
		if done < to-from { // else the call itself was refused, and its count never written
			from += done
		}
		if err := one(from); err != nil {
			failed[from] = err
		}
		from++
	}
	return failed
}

func (t *Kernel[K, V]) refused(verb string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC): // hash, LPM trie
		return fmt.Errorf("%s map %s: %w: it holds %d rows", verb, t.name, ErrFull, t.m.MaxEntries())
	default:
		return fmt.Errorf("%s map %s: %w", verb, t.name, err)
	}
}
