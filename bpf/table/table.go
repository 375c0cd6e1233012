// SPDX-License-Identifier: Apache-2.0

// Package table is the seam between rows and the kernel's maps: a Table is a map of typed rows that
// can be read, written and made equal to what is wanted. It has a kernel form, an in-memory form and
// one that fails on purpose, so that what is above it is tested without root.
package table

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Table is a map of rows. All methods are safe for use by one writer and any number of readers.
type Table[K comparable, V comparable] interface {
	// Get returns the row of key and whether there is one.
	Get(key K) (V, bool, error)
	// Put adds or replaces one row; readers see the old or the new row, never none.
	Put(key K, value V) error
	// Delete removes one row. Removing what is not there is no error.
	Delete(key K) error
	// All returns every row.
	All() (map[K]V, error)
}

// Diff counts what Sync changed.
type Diff struct {
	Added, Replaced, Removed int
}

// String is for logs: "+2 ~1 -0".
func (d Diff) String() string { return fmt.Sprintf("+%d ~%d -%d", d.Added, d.Replaced, d.Removed) }

// bulk is what a Table may offer besides: many rows in few calls. Both go on behind a row that was
// refused and return why, by index.
type bulk[K comparable, V comparable] interface {
	PutMany(keys []K, values []V) map[int]error
	DeleteMany(keys []K) map[int]error
}

// Compare returns what t lacks of want or holds otherwise, and what it holds that nobody wants.
func Compare[K comparable, V comparable](t Table[K, V], want map[K]V) (put map[K]V, gone map[K]struct{}, err error) {
	have, err := t.All()
	if err != nil {
		return nil, nil, err
	}
	put, gone = make(map[K]V), make(map[K]struct{})
	for key, value := range want {
		if old, ok := have[key]; !ok || old != value {
			put[key] = value
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			gone[key] = struct{}{}
		}
	}
	return put, gone, nil
}

// PutAll writes rows, goes on behind one that is refused, and counts those written.
func PutAll[K comparable, V comparable](t Table[K, V], rows map[K]V) (int, error) {
	keys, values := make([]K, 0, len(rows)), make([]V, 0, len(rows))
	for key, value := range rows {
		keys, values = append(keys, key), append(values, value)
	}
	failed := putMany(t, keys, values)
	return len(keys) - len(failed), errors.Join(inOrder(failed)...)
}

// DeleteAll removes rows, as PutAll writes them.
func DeleteAll[K comparable, V comparable](t Table[K, V], rows map[K]struct{}) (int, error) {
	keys := slices.Collect(maps.Keys(rows))
	failed := deleteMany(t, keys)
	return len(keys) - len(failed), errors.Join(inOrder(failed)...)
}

// Sync makes t hold exactly want, writing only what differs; see Update.
func Sync[K comparable, V comparable](t Table[K, V], want map[K]V) (Diff, error) {
	have, err := t.All()
	if err != nil {
		return Diff{}, err
	}
	return Update(t, have, want)
}

// Update makes t, which holds exactly have, hold exactly want: what is wanted first, then what nobody wants is
// removed, so that no wanted key is ever absent. It goes on after an error and joins them.
func Update[K comparable, V comparable](t Table[K, V], have, want map[K]V) (Diff, error) {
	var puts, deletes []K
	var values []V
	for key, value := range want {
		if old, ok := have[key]; !ok || old != value {
			puts, values = append(puts, key), append(values, value)
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			deletes = append(deletes, key)
		}
	}
	var d Diff
	failed := putMany(t, puts, values)
	for i, key := range puts {
		if failed[i] != nil {
			continue
		}
		if _, ok := have[key]; ok {
			d.Replaced++
		} else {
			d.Added++
		}
	}
	kept := deleteMany(t, deletes)
	d.Removed = len(deletes) - len(kept)
	return d, errors.Join(append(inOrder(failed), inOrder(kept)...)...)
}

func putMany[K comparable, V comparable](t Table[K, V], keys []K, values []V) map[int]error {
	if b, ok := t.(bulk[K, V]); ok {
		return b.PutMany(keys, values)
	}
	return each(len(keys), func(i int) error { return t.Put(keys[i], values[i]) })
}

func deleteMany[K comparable, V comparable](t Table[K, V], keys []K) map[int]error {
	if b, ok := t.(bulk[K, V]); ok {
		return b.DeleteMany(keys)
	}
	return each(len(keys), func(i int) error { return t.Delete(keys[i]) })
}

func each(n int, do func(i int) error) map[int]error {
	failed := make(map[int]error)
	for i := range n {
		if err := do(i); err != nil {
			failed[i] = err
		}
	}
	return failed
}

// inOrder lists what failed, each kind of failure once: a full map fails for every row.
func inOrder(failed map[int]error) []error {
	var errs []error
	times := make(map[string]int)
	for _, i := range slices.Sorted(maps.Keys(failed)) {
		text := failed[i].Error()
		if times[text]++; times[text] == 1 {
			errs = append(errs, failed[i])
		}
	}
	for i, err := range errs {
		if n := times[err.Error()]; n > 1 {
			errs[i] = fmt.Errorf("%w (%d rows)", err, n)
		}
	}
	return errs
}
