// SPDX-License-Identifier: Apache-2.0

package table

import (
	"maps"
	"sync"
)

// Memory is a Table without a kernel. The zero value is empty and ready.
type Memory[K comparable, V comparable] struct {
	mu   sync.Mutex
	rows map[K]V
	// Fail, when set, is asked before every write; a non-nil answer is returned in its place.
	Fail func(key K) error
}

// Get implements Table.
func (m *Memory[K, V]) Get(key K) (V, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.rows[key]
	return value, ok, nil
}

// Put implements Table.
func (m *Memory[K, V]) Put(key K, value V) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Fail != nil {
		if err := m.Fail(key); err != nil {
			return err
		}
	}
	if m.rows == nil {
		m.rows = make(map[K]V)
	}
	m.rows[key] = value
	return nil
}

// Delete implements Table.
func (m *Memory[K, V]) Delete(key K) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Fail != nil {
		if err := m.Fail(key); err != nil {
			return err
		}
	}
	delete(m.rows, key)
	return nil
}

// All implements Table.
func (m *Memory[K, V]) All() (map[K]V, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.rows), nil
}
