// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/json"
	"errors"
	"fmt"

	"weft/discovery"
)

// Put writes v as an own row; see Store.Put.
func Put[T any](s *Store, kind discovery.Kind, key string, v T) error {
	value, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("put row %s/%s: %w", kind, key, err)
	}
	return s.Put(kind, key, value)
}

// All returns the values of the live rows of a kind by (writer, key). Rows that can't be read are
// left out and named in the error, so that one bad writer does not hide the others.
func All[T any](s *Store, kind discovery.Kind) ([]T, error) {
	rows := s.Rows(kind)
	values := make([]T, 0, len(rows))
	var errs []error
	for i := range rows {
		v, err := Value[T](rows[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		values = append(values, v)
	}
	return values, errors.Join(errs...)
}

// Value reads the value of a row.
func Value[T any](r discovery.Row) (T, error) {
	var v T
	if err := json.Unmarshal(r.Value, &v); err != nil {
		return v, fmt.Errorf("read row %s/%s of %s: %w", r.Kind, r.Key, r.Writer, err)
	}
	return v, nil
}
