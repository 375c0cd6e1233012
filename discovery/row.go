// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// Limits of a row; a longer one is refused where it is written and where it arrives.
const (
	MaxRowName  = 1024    // bytes of a writer, a kind or a key
	MaxRowValue = 1 << 20 // bytes
)

// Validate returns every problem of a row that keeps it from being stored and sent on; all are ErrInvalid.
func (r *Row) Validate() error {
	errs := []error{CheckRowName("writer", r.Writer), CheckRowName("kind", string(r.Kind)), CheckRowName("key", r.Key)}
	if len(r.Value) > MaxRowValue {
		errs = append(errs, fmt.Errorf("value of %d bytes: at most %d are allowed: %w", len(r.Value), MaxRowValue, ErrInvalid))
	}
	if r.Incarnation == 0 || r.Seq == 0 {
		errs = append(errs, fmt.Errorf("incarnation %d, seq %d: both start at 1: %w", r.Incarnation, r.Seq, ErrInvalid))
	}
	return errors.Join(errs...)
}

// CheckRowName refuses names that would not fit an index; NUL is its separator.
func CheckRowName(field, name string) error {
	if name == "" || len(name) > MaxRowName || strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("%s %q: 1 to %d bytes without NUL are allowed: %w", field, name, MaxRowName, ErrInvalid)
	}
	return nil
}

// Stream is the rows of one writer on one topic, in the order of Seq. It is held
// whole or not at all, so that one Position says what is known of it.
type Stream struct {
	Writer string
	Topic  Topic
}

// Stream returns the stream that the row is in.
func (r *Row) Stream() Stream { return Stream{r.Writer, r.Kind.Topic(r.Key)} }

// Compare orders streams by writer, then topic.
func (s Stream) Compare(o Stream) int {
	if c := cmp.Compare(s.Writer, o.Writer); c != 0 {
		return c
	}
	return s.Topic.Compare(o.Topic)
}

// String is for people: the writer, and the topic behind a slash.
func (s Stream) String() string {
	if s.Topic.IsZero() {
		return s.Writer
	}
	return s.Writer + "/" + s.Topic.String()
}

// Position is how far a stream is known: all rows up to Seq of that Incarnation.
type Position struct {
	Incarnation uint64
	Seq         uint64
}

// After tells whether p is further than q.
func (p Position) After(q Position) bool {
	return p.Incarnation > q.Incarnation || p.Incarnation == q.Incarnation && p.Seq > q.Seq
}

// Reaches tells whether p is as far as q, or further.
func (p Position) Reaches(q Position) bool { return !q.After(p) }
