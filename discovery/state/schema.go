// SPDX-License-Identifier: Apache-2.0

package state

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/go-memdb"

	"weft/discovery"
)

const (
	rowTable    = "rows"
	writerTable = "writers"

	// Indexes of rows. The first three hold every row, the last one tombstones only.
	byID   = "id"   // writer, kind, key: unique
	byKind = "kind" // kind, writer, key: unique
	bySeq  = "seq"  // writer, seq
	byTomb = "tomb" // writer, seq

	// byRev orders writers by the store's own count of changes: who changed since.
	byRev = "rev"

	prefix = "_prefix" // memdb's suffix for "all that begin with"
)

// writer is what is known of one writer as a whole; a value in the table is never changed.
type writer struct {
	name        string
	incarnation uint64
	seq         uint64 // everything up to here is known; 0: something may be missing
	floor       uint64 // deletions up to here may be forgotten
	gone        uint64 // by the masters: incarnations up to this one are void
	tombstones  int
	rev         uint64
}

// removed tells that the masters declared this life of the writer over.
func (w *writer) removed() bool { return w.gone > 0 && w.incarnation <= w.gone }

func schema() *memdb.DBSchema {
	rowIndex := func(name string, unique, missing bool, key func(*discovery.Row) []byte) *memdb.IndexSchema {
		return &memdb.IndexSchema{
			Name: name, Unique: unique, AllowMissing: missing,
			Indexer: index(func(obj any) []byte {
				row, ok := obj.(*discovery.Row)
				if !ok {
					return nil
				}
				return key(row)
			}),
		}
	}
	writerIndex := func(name string, key func(*writer) []byte) *memdb.IndexSchema {
		return &memdb.IndexSchema{Name: name, Unique: true, Indexer: index(func(obj any) []byte {
			w, ok := obj.(*writer)
			if !ok {
				return nil
			}
			return key(w)
		})}
	}
	return &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
		rowTable: {Name: rowTable, Indexes: map[string]*memdb.IndexSchema{
			byID:   rowIndex(byID, true, false, func(r *discovery.Row) []byte { return words(r.Writer, string(r.Kind), r.Key) }),
			byKind: rowIndex(byKind, true, false, func(r *discovery.Row) []byte { return words(string(r.Kind), r.Writer, r.Key) }),
			bySeq:  rowIndex(bySeq, false, false, func(r *discovery.Row) []byte { return seqKey(r.Writer, r.Seq) }),
			byTomb: rowIndex(byTomb, false, true, func(r *discovery.Row) []byte {
				if !r.Deleted {
					return nil
				}
				return seqKey(r.Writer, r.Seq)
			}),
		}},
		writerTable: {Name: writerTable, Indexes: map[string]*memdb.IndexSchema{
			byID:  writerIndex(byID, func(w *writer) []byte { return words(w.name) }),
			byRev: writerIndex(byRev, revKey),
		}},
	}}
}

// words joins names so that their order is the order of the bytes; NUL is in none of them.
func words(names ...string) []byte {
	n := len(names)
	for _, name := range names {
		n += len(name)
	}
	key := make([]byte, 0, n)
	for _, name := range names {
		key = append(key, name...)
		key = append(key, 0)
	}
	return key
}

func seqKey(writer string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(words(writer), seq)
}

func revKey(w *writer) []byte {
	return append(binary.BigEndian.AppendUint64(nil, w.rev), w.name...)
}

// index is an index by bytes: keys are made by the callers, nil leaves the object out.
type index func(obj any) []byte

func (f index) FromObject(obj any) (bool, []byte, error) {
	key := f(obj)
	return key != nil, key, nil
}

func (f index) FromArgs(args ...any) ([]byte, error) {
	if len(args) == 1 {
		if key, ok := args[0].([]byte); ok {
			return key, nil
		}
	}
	return nil, fmt.Errorf("an index takes one byte slice, not %d arguments", len(args))
}

func (f index) PrefixFromArgs(args ...any) ([]byte, error) { return f.FromArgs(args...) }

// must is for the answers of memdb, whose only errors are unknown tables and indexes.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("row store schema: %v", err))
	}
	return v
}

func readRow(mem *memdb.Txn, writerName string, kind discovery.Kind, key string) *discovery.Row {
	row, _ := must(mem.First(rowTable, byID, words(writerName, string(kind), key))).(*discovery.Row)
	return row
}

func readWriter(mem *memdb.Txn, name string) writer {
	if w, ok := must(mem.First(writerTable, byID, words(name))).(*writer); ok {
		return *w
	}
	return writer{name: name}
}

// eachRow calls f for the rows, tombstones too, whose index begins with the names. f must not
// change mem.
func eachRow(mem *memdb.Txn, index string, names []string, f func(*discovery.Row)) {
	rows := must(mem.Get(rowTable, index+prefix, words(names...)))
	for obj := rows.Next(); obj != nil; obj = rows.Next() {
		if row, ok := obj.(*discovery.Row); ok {
			f(row)
		}
	}
}

func eachWriter(mem *memdb.Txn, f func(*writer)) {
	writers := must(mem.Get(writerTable, byID))
	for obj := writers.Next(); obj != nil; obj = writers.Next() {
		if w, ok := obj.(*writer); ok {
			f(w)
		}
	}
}

func liveRows(mem *memdb.Txn, index string, names ...string) []discovery.Row {
	var live []discovery.Row
	eachRow(mem, index, names, func(r *discovery.Row) {
		if !r.Deleted {
			live = append(live, *r)
		}
	})
	return live
}
