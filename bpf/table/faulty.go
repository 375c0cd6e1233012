// SPDX-License-Identifier: Apache-2.0

package table

// Op is what was asked of a Faulty table.
type Op string

// Values of Op.
const (
	OpGet    Op = "get"
	OpPut    Op = "put"
	OpDelete Op = "delete"
	OpAll    Op = "all"
)

// Faulty is a Table that fails on purpose: what Fail answers is returned in place of doing it.
type Faulty[K comparable, V comparable] struct {
	Table[K, V]
	// Fail is asked first; the key of OpAll is the zero one. Nil: nothing fails.
	Fail func(op Op, key K) error
}

// Get implements Table.
func (f *Faulty[K, V]) Get(key K) (V, bool, error) {
	if err := f.fails(OpGet, key); err != nil {
		var none V
		return none, false, err
	}
	return f.Table.Get(key)
}

// Put implements Table.
func (f *Faulty[K, V]) Put(key K, value V) error {
	if err := f.fails(OpPut, key); err != nil {
		return err
	}
	return f.Table.Put(key, value)
}

// Delete implements Table.
func (f *Faulty[K, V]) Delete(key K) error {
	if err := f.fails(OpDelete, key); err != nil {
		return err
	}
	return f.Table.Delete(key)
}

// All implements Table.
func (f *Faulty[K, V]) All() (map[K]V, error) {
	var none K
	if err := f.fails(OpAll, none); err != nil {
		return nil, err
	}
	return f.Table.All()
}

func (f *Faulty[K, V]) fails(op Op, key K) error {
	if f.Fail == nil {
		return nil
	}
	return f.Fail(op, key)
}
