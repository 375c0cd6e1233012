// SPDX-License-Identifier: Apache-2.0

// Package operation is what the journal of a row store says, as bytes: rows that are set or forgotten, and how far streams
// are known. What they come to is package state's to know.
package operation

import (
	"encoding/binary"
	"fmt"
	"strings"

	"weft/discovery"
	"weft/discovery/state/journal"
)

// Code says what an operation does. A record of the journal is a sequence of operations, carried out together.
//
//	SetRow     writer kind key incarnation seq deleted value   set the row
//	DropRow    writer kind key                                 forget the row
//	SetStream  writer topic incarnation seq floor              set what is known of the stream
//	Forget     writer topic                                    forget that; its rows were dropped
//
// Numbers are varints, texts have their length before them.
type Code byte

// The operations there are.
const (
	SetRow Code = iota + 1
	DropRow
	oldWriter // of version 1, which had no topics: as SetStream without one
	oldStream // of version 2, in which names had no topics: as SetStream
	SetStream
	Forget
)

// Operation is one of them, as it was read.
type Operation struct {
	Code   Code
	Row    discovery.Row // SetRow; of DropRow the names
	Stream Known         // SetStream; of Forget the names
	Old    bool          // SetStream as it was written before the present topics
}

// Known is how far a stream is known.
type Known struct {
	discovery.Stream
	Incarnation uint64
	Seq         uint64 // everything up to here is known; 0: something may be missing
	Floor       uint64 // deletions up to here may be forgotten
}

// AppendRow appends a SetRow.
func AppendRow(b []byte, r *discovery.Row) []byte {
	b = appendNames(append(b, byte(SetRow)), r.Writer, string(r.Kind), r.Key)
	b = binary.AppendUvarint(b, r.Incarnation)
	b = binary.AppendUvarint(b, r.Seq)
	deleted := byte(0)
	if r.Deleted {
		deleted = 1
	}
	b = append(b, deleted)
	b = binary.AppendUvarint(b, uint64(len(r.Value)))
	return append(b, r.Value...)
}

// AppendDrop appends a DropRow.
func AppendDrop(b []byte, r *discovery.Row) []byte {
	return appendNames(append(b, byte(DropRow)), r.Writer, string(r.Kind), r.Key)
}

// AppendStream appends a SetStream.
func AppendStream(b []byte, k *Known) []byte {
	b = appendNames(append(b, byte(SetStream)), k.Writer, k.Topic.String())
	b = binary.AppendUvarint(b, k.Incarnation)
	b = binary.AppendUvarint(b, k.Seq)
	return binary.AppendUvarint(b, k.Floor)
}

// AppendForget appends a Forget.
func AppendForget(b []byte, of discovery.Stream) []byte {
	return appendNames(append(b, byte(Forget)), of.Writer, of.Topic.String())
}

func appendNames(b []byte, names ...string) []byte {
	for _, name := range names {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
	}
	return b
}

// reader reads fields one after the other and remembers that one was wrong.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) bytes(limit int) []byte {
	n := r.number()
	if n > uint64(limit) || n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) name() string {
	name := string(r.bytes(discovery.MaxRowName))
	if discovery.CheckRowName("name", name) != nil {
		r.bad = true
	}
	return name
}

func (r *reader) topic() discovery.Topic {
	text := string(r.bytes(discovery.MaxRowName))
	t := discovery.ParseTopic(text)
	if t.String() != text || strings.IndexByte(text, 0) >= 0 {
		r.bad = true
	}
	return t
}

// Read reads the first operation of b. It keeps no part of b.
func Read(b []byte) (op Operation, rest []byte, err error) {
	if len(b) == 0 {
		return op, nil, fmt.Errorf("empty operation: %w", journal.ErrBroken)
	}
	op.Code = Code(b[0])
	r := reader{rest: b[1:]}
	switch op.Code {
	case SetRow:
		op.Row.Writer, op.Row.Kind, op.Row.Key = r.name(), discovery.Kind(r.name()), r.name()
		op.Row.Incarnation, op.Row.Seq = r.number(), r.number()
		op.Row.Deleted = r.number() == 1
		if value := r.bytes(discovery.MaxRowValue); len(value) > 0 {
			op.Row.Value = append([]byte(nil), value...)
		}
	case DropRow:
		op.Row.Writer, op.Row.Kind, op.Row.Key = r.name(), discovery.Kind(r.name()), r.name()
	case Forget:
		op.Stream.Writer, op.Stream.Topic = r.name(), r.topic()
	case SetStream, oldStream, oldWriter:
		op.Stream.Writer = r.name()
		if op.Code != oldWriter {
			op.Stream.Topic = r.topic()
		}
		op.Stream.Incarnation, op.Stream.Seq, op.Stream.Floor = r.number(), r.number(), r.number()
		op.Code, op.Old = SetStream, op.Code != SetStream
	default:
		return op, nil, fmt.Errorf("operation %d is unknown: %w", op.Code, journal.ErrBroken)
	}
	if r.bad {
		return op, nil, fmt.Errorf("operation %d is cut or too long: %w", op.Code, journal.ErrBroken)
	}
	return op, r.rest, nil
}
