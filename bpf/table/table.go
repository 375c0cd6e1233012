// SPDX-License-Identifier: Apache-2.0

// Package table is the seam between rows and the kernel's maps: a Table is a map of typed rows that
// can be read, written and made equal to what is wanted. It has a kernel form, an in-memory form and
// one that fails on purpose, so that what is above it is tested without root.
package table

import (
	"errors"
	"fmt"
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

// Sync makes t hold exactly want, writing only what differs: what is wanted first, then what nobody
// wants is removed, so that no wanted key is ever absent. It goes on after an error and joins them.
func Sync[K comparable, V comparable](t Table[K, V], want map[K]V) (Diff, error) {
	have, err := t.All()
	if err != nil {
		return Diff{}, err
	}
	var d Diff
	var errs []error
	for key, value := range want {
		old, ok := have[key]
		if ok && old == value {
			continue
		}
		if err := t.Put(key, value); err != nil {
			errs = append(errs, err)
			continue
		}
		if ok {
			d.Replaced++
		} else {
			d.Added++
		}
	}
	for key := range have {
		if _, ok := want[key]; ok {
			continue
		}
		if err := t.Delete(key); err != nil {
			errs = append(errs, err)
			continue
		}
		d.Removed++
	}
	return d, errors.Join(errs...)
}
