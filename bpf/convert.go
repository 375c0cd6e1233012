// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf/btf"
)

// field is a number, or a row of equal ones, somewhere in a row. Its name is the path to it, "to.addr.bytes"; a
// row that is itself a number is one field without a name.
type field struct {
	name         string
	offset, size uint32 // bytes
}

// fieldsOf lists the fields of a type, in the order in which they lie.
func fieldsOf(t btf.Type) ([]field, error) { return appendFields(nil, "", 0, t) }

func appendFields(list []field, path string, offset uint32, t btf.Type) ([]field, error) {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		var err error
		for _, m := range t.Members {
			if m.BitfieldSize != 0 {
				return nil, fmt.Errorf("%s.%s: %w: bits as a field", t.Name, m.Name, ErrUnsupported)
			}
			name := m.Name
			if path != "" {
				name = path + "." + name
			}
			if list, err = appendFields(list, name, offset+m.Offset.Bytes(), m.Type); err != nil {
				return nil, err
			}
		}
		return list, nil
	case *btf.Int, *btf.Enum, *btf.Array, *btf.Union:
		size, err := btf.Sizeof(t)
		return append(list, field{path, offset, uint32(size)}), err
	default:
		return nil, fmt.Errorf("field %q: %w: type %T", path, ErrUnsupported, t)
	}
}

// conversion makes rows of one layout those of another. Fields are known by their names: what both have is
// copied, what only the new one has is zero. A number that grew keeps its value: machines are little-endian.
type conversion struct {
	size  uint32 // of the new row, bytes
	moves []move
	lost  []span // of the old row
	same  bool   // nothing is to be done
}

type span struct{ from, to uint32 }

type move struct{ from, to, size uint32 }

func convert(from, to []field, oldSize, newSize uint32) conversion {
	c := conversion{size: newSize, same: oldSize == newSize && slices.Equal(from, to)}
	old := make(map[string]field, len(from))
	for _, f := range from {
		old[f.name] = f
	}
	for _, f := range to {
		if o, ok := old[f.name]; ok {
			c.moves = append(c.moves, move{o.offset, f.offset, min(o.size, f.size)})
			c.lost = append(c.lost, span{o.offset + min(o.size, f.size), o.offset + o.size})
			delete(old, f.name)
		}
	}
	for _, o := range old {
		c.lost = append(c.lost, span{o.offset, o.offset + o.size})
	}
	return c
}

// loses reports whether old says something that the new form has no place for. A key without it would be
// about more than the row was: a verdict about one port would be one about all.
func (c conversion) loses(old []byte) bool {
	return slices.ContainsFunc(c.lost, func(s span) bool {
		return slices.ContainsFunc(old[s.from:s.to], func(b byte) bool { return b != 0 })
	})
}

// row writes the new form of old into made, which has the new size.
func (c conversion) row(made, old []byte) {
	clear(made)
	for _, m := range c.moves {
		copy(made[m.to:m.to+m.size], old[m.from:m.from+m.size])
	}
}
