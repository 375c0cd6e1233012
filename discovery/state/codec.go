// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/binary"
	"fmt"
	"strings"

	"weft/discovery"
)

// Operations of the log. A record is a sequence of them, carried out together.
//
//	opRow     writer kind key incarnation seq deleted value   set the row
//	opDrop    writer kind key                                 forget the row
//	opStream  writer topic incarnation seq floor              set what is known of the stream
//	opForget  writer topic                                    forget that; its rows were dropped
//
// Numbers are varints, texts have their length before them.
const (
	opRow byte = iota + 1
	opDrop
	opOldWriter // of version 1, which had no topics: as opStream without one
	opOldStream // of version 2, in which names had no topics: as opStream
	opStream
	opForget
)

type operation struct {
	code   byte
	row    discovery.Row // opRow; of opDrop the names
	stream stream        // opStream; of opForget the names
}

func appendRow(b []byte, r *discovery.Row) []byte {
	b = appendNames(append(b, opRow), r.Writer, string(r.Kind), r.Key)
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

func appendDrop(b []byte, r *discovery.Row) []byte {
	return appendNames(append(b, opDrop), r.Writer, string(r.Kind), r.Key)
}

func appendStream(b []byte, st *stream) []byte {
	b = appendNames(append(b, opStream), st.Writer, st.Topic.String())
	b = binary.AppendUvarint(b, st.incarnation)
	b = binary.AppendUvarint(b, st.seq)
	return binary.AppendUvarint(b, st.floor)
}

func appendForget(b []byte, of discovery.Stream) []byte {
	return appendNames(append(b, opForget), of.Writer, of.Topic.String())
}

func appendNames(b []byte, names ...string) []byte {
	for _, name := range names {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
	}
	return b
}

// opReader reads fields one after the other and remembers that one was wrong.
type opReader struct {
	rest []byte
	bad  bool
}

func (r *opReader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *opReader) bytes(limit int) []byte {
	n := r.number()
	if n > uint64(limit) || n > uint64(len(r.rest)) {
		r.bad, r.rest = true, nil
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *opReader) name() string {
	name := string(r.bytes(discovery.MaxRowName))
	if discovery.CheckRowName("name", name) != nil {
		r.bad = true
	}
	return name
}

func (r *opReader) topic() discovery.Topic {
	text := string(r.bytes(discovery.MaxRowName))
	t := discovery.ParseTopic(text)
	if t.String() != text || strings.IndexByte(text, 0) >= 0 {
		r.bad = true
	}
	return t
}

// readOp reads the first operation of b. It keeps no part of b.
func readOp(b []byte) (op operation, rest []byte, err error) {
	if len(b) == 0 {
		return op, nil, fmt.Errorf("empty operation: %w", ErrBroken)
	}
	op.code = b[0]
	r := opReader{rest: b[1:]}
	switch op.code {
	case opRow:
		op.row.Writer, op.row.Kind, op.row.Key = r.name(), discovery.Kind(r.name()), r.name()
		op.row.Incarnation, op.row.Seq = r.number(), r.number()
		op.row.Deleted = r.number() == 1
		if value := r.bytes(discovery.MaxRowValue); len(value) > 0 {
			op.row.Value = append([]byte(nil), value...)
		}
	case opDrop:
		op.row.Writer, op.row.Kind, op.row.Key = r.name(), discovery.Kind(r.name()), r.name()
	case opForget:
		op.stream.Writer, op.stream.Topic = r.name(), r.topic()
	case opStream, opOldStream, opOldWriter:
		op.stream.Writer = r.name()
		if op.code != opOldWriter {
			op.stream.Topic = r.topic()
		}
		op.stream.incarnation, op.stream.seq, op.stream.floor = r.number(), r.number(), r.number()
	default:
		return op, nil, fmt.Errorf("operation %d is unknown: %w", op.code, ErrBroken)
	}
	if r.bad {
		return op, nil, fmt.Errorf("operation %d is cut or too long: %w", op.code, ErrBroken)
	}
	return op, r.rest, nil
}
