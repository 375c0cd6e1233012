// SPDX-License-Identifier: Apache-2.0

// Package convert makes rows of one layout of maps those of another, by the names of their fields.
package convert

import (
	"errors"
	"fmt"
	"net/netip"
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
				return nil, fmt.Errorf("%s.%s: %w: bits as a field", t.Name, m.Name, errors.ErrUnsupported)
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
		return nil, fmt.Errorf("field %q: %w: type %T", path, errors.ErrUnsupported, t)
	}
}

// Conversion makes rows of one layout those of another. Fields are known by their names: what both have is
// copied, what only the new one has is zero. A number that grew keeps its value: machines are little-endian.
type Conversion struct {
	Size uint32 // of the new row, bytes
	Same bool   // nothing is to be done

	moves []move
	wider []move // of IPv4 addresses to 128-bit ones; 0 stays 0
	lost  []span // of the old row
}

type span struct{ from, to uint32 }

type move struct{ from, to, size uint32 }

// formerly is what structs were called that a later layout gave a name of their own, and fields, with their struct, that
// were IPv4 addresses of 4 bytes and became 128-bit ones.
var formerly = map[string]string{"edge_served": "peer", "edge_backend.vtep.bytes": "node"}

// To converts to the type now, of newSize bytes, from the type of its name among types, of oldSize. Types without
// fields are known by their sizes. Bit fields and pointers are errors.ErrUnsupported.
func To(types *btf.Spec, now btf.Type, oldSize, newSize uint32) (Conversion, error) {
	if s, ok := btf.As[*btf.Struct](now); ok {
		var was *btf.Struct
		err := types.TypeByName(s.Name, &was)
		if former, some := formerly[s.Name]; some && errors.Is(err, btf.ErrNotFound) {
			err = types.TypeByName(former, &was)
		}
		if err != nil {
			return Conversion{}, fmt.Errorf("struct %s: %w", s.Name, err)
		}
		from, err := fieldsOf(was)
		if err != nil {
			return Conversion{}, err
		}
		to, err := fieldsOf(s)
		return between(s.Name, from, to, oldSize, newSize), err
	}
	return between("", []field{{size: oldSize}}, []field{{size: newSize}}, oldSize, newSize), nil
}

func between(name string, from, to []field, oldSize, newSize uint32) Conversion {
	c := Conversion{Size: newSize, Same: oldSize == newSize && slices.Equal(from, to)}
	old := make(map[string]field, len(from))
	for _, f := range from {
		old[f.name] = f
	}
	for _, f := range to {
		if o, ok := old[f.name]; ok {
			c.moves = append(c.moves, move{o.offset, f.offset, min(o.size, f.size)})
			c.lost = append(c.lost, span{o.offset + min(o.size, f.size), o.offset + o.size})
			delete(old, f.name)
		} else if o, ok := old[formerly[name+"."+f.name]]; ok && o.size == 4 && f.size == 16 {
			c.wider = append(c.wider, move{o.offset, f.offset, o.size})
			delete(old, o.name)
		}
	}
	for _, o := range old {
		c.lost = append(c.lost, span{o.offset, o.offset + o.size})
	}
	return c
}

// Loses reports whether old says something that the new form has no place for. A key without it would be
// about more than the row was: a verdict about one port would be one about all.
func (c Conversion) Loses(old []byte) bool {
	return slices.ContainsFunc(c.lost, func(s span) bool {
		return slices.ContainsFunc(old[s.from:s.to], func(b byte) bool { return b != 0 })
	})
}

// Row writes the new form of old into made, which has the new size.
func (c Conversion) Row(made, old []byte) {
	clear(made)
	for _, m := range c.moves {
		copy(made[m.to:m.to+m.size], old[m.from:m.from+m.size])
	}
	for _, m := range c.wider {
		if addr := netip.AddrFrom4([4]byte(old[m.from:])); !addr.IsUnspecified() {
			wide := addr.As16()
			copy(made[m.to:], wide[:])
		}
	}
}
