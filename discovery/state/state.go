// SPDX-License-Identifier: Apache-2.0

// Package state holds the rows of the cluster as one process believes them: in memory for readers,
// on disk for the next start, and as differences for whoever lacks some. It knows who may say what
// and which of two rows is newer; it leaves the meaning of values to the rooms that write them, and
// the wire to discoverypb.
//
// A change goes through these stages, one at a time (readers never wait, they see snapshots):
//
//  1. queue   (commit.go)  callers line up; the first takes along who came meanwhile
//  2. decide  (rules.go)   incarnation, sequence, tombstones, admission
//  3. log     (journal)    one checksummed record of operations per group; synced when one of them is our own row
//  4. publish (commit.go)  the memory becomes visible, readers of the kinds wake up (watch)
package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"weft/discovery"
	"weft/discovery/state/journal"
	"weft/discovery/state/watch"
)

// DefaultTombstones is how many deleted rows of a node are remembered; of the ledger it is 64 times
// as many. Who missed more gets all rows of that writer anew, so it is a question of bytes only.
const (
	DefaultTombstones = 64
	ledgerTombstones  = 64
)

// Sentinels of this room; test with errors.Is.
var (
	// ErrGap tells that a batch begins after what is known: the sender must look at the digest.
	ErrGap = errors.New("rows are missing before these")
	// ErrClosed tells that the store was closed.
	ErrClosed = errors.New("the row store is closed")
	// ErrBroken tells that bytes on disk were not what was written there.
	ErrBroken = journal.ErrBroken
)

// Options say whose store it is and where it lives.
type Options struct {
	// Self is the writer of own rows: a node id. Empty: Put and Delete are refused.
	Self string
	// Dir is the folder of the store, used by one process at a time; empty: memory only.
	Dir string
	// Whole takes rows of every topic, as masters do; else rows that everyone holds, own ones, and those of
	// the topics that Take named. Topics that were held when the folder was last used are held again.
	Whole bool
	// Tombstones overrides DefaultTombstones.
	Tombstones int
	// Log takes what the operator should know; nil: nobody.
	Log *slog.Logger
}

func (o *Options) validate() error {
	var errs []error
	if o.Self == discovery.Ledger {
		errs = append(errs, fmt.Errorf("self %q: the ledger's rows have a writer of their own: %w", o.Self, discovery.ErrInvalid))
	}
	if err := discovery.CheckRowName("self", o.Self); o.Self != "" && err != nil {
		errs = append(errs, err)
	}
	if o.Tombstones < 0 {
		errs = append(errs, fmt.Errorf("tombstones %d: must be 0 (default) or more: %w", o.Tombstones, discovery.ErrInvalid))
	}
	return errors.Join(errs...)
}

// Store is the rows. All methods may be called side by side.
type Store struct {
	self       string
	whole      bool
	tombstones int
	log        *slog.Logger
	published  atomic.Pointer[memory] // what readers see; never changed
	readers    watch.Readers
	hub        hub
	turned     atomic.Pointer[chan struct{}] // closed at the next change of the interest

	queueMu sync.Mutex
	queue   []*change

	commitMu sync.Mutex       // held by whoever carries out changes; guards what follows
	disk     *journal.Journal // nil: memory only
	rev      uint64           // of the last change of a writer
	renewed  time.Time
	closed   bool

	stats counters
}

// counters are read without a lock.
type counters struct {
	rows, tombstones, streams  atomic.Int64
	renewals, refused, salvage atomic.Uint64
	logBytes                   atomic.Int64
}

// Stats counts what a Store holds and what happened to it since Open.
type Stats struct {
	Rows       int    // live ones
	Tombstones int    // remembered deletions
	Streams    int    // writers that have rows, and topics that they have rows on
	Renewals   uint64 // how often our own rows got a new incarnation
	Refused    uint64 // rows of writers that the masters removed
	Salvaged   uint64 // places in the state file that could not be read
	LogBytes   int64  // size of the state file
}

// Stats returns the present counts.
func (s *Store) Stats() Stats {
	return Stats{
		Rows:       int(s.stats.rows.Load()),
		Tombstones: int(s.stats.tombstones.Load()),
		Streams:    int(s.stats.streams.Load()),
		Renewals:   s.stats.renewals.Load(),
		Refused:    s.stats.refused.Load(),
		Salvaged:   s.stats.salvage.Load(),
		LogBytes:   s.stats.logBytes.Load(),
	}
}

// Open reads the store's folder, or begins a new life when there is none. A state file that is
// broken in places is kept aside, reported to Log with the offsets, and what is whole is used: only
// a folder that can't be read or written is an error.
func Open(o Options) (*Store, error) {
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("open row store: %w", err)
	}
	s := &Store{self: o.Self, whole: o.Whole, tombstones: o.Tombstones, log: o.Log}
	s.published.Store(newMemory())
	s.turned.Store(new(make(chan struct{})))
	if s.tombstones == 0 {
		s.tombstones = DefaultTombstones
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if o.Dir != "" {
		if s.disk, err = journal.Open(o.Dir, o.Self); err != nil {
			return nil, fmt.Errorf("open row store: %w", err)
		}
	}
	if err := s.boot(); err != nil {
		return nil, errors.Join(fmt.Errorf("open row store: %w", err), s.disk.Close())
	}
	return s, nil
}

// now is the rows as readers see them.
func (s *Store) now() *memory { return s.published.Load() }

// Revision grows with every change of rows, wherever they are from.
func (s *Store) Revision() uint64 { return s.now().rev }

// Self returns the writer of own rows.
func (s *Store) Self() string { return s.self }

// Whole tells whether rows of every topic are taken.
func (s *Store) Whole() bool { return s.whole }

// Put writes an own row and returns when it is on disk. The same value again changes nothing.
func (s *Store) Put(kind discovery.Kind, key string, value []byte) error {
	if err := s.checkOwn(kind, key, value); err != nil {
		return fmt.Errorf("put row %s/%s: %w", kind, key, err)
	}
	value = append([]byte(nil), value...)
	err := s.commit(true, func(t *tx) error { t.put(kind, key, value); return nil })
	if err != nil {
		return fmt.Errorf("put row %s/%s: %w", kind, key, err)
	}
	return nil
}

// Delete withdraws an own row and returns when that is on disk. A row that is not there is no error.
func (s *Store) Delete(kind discovery.Kind, key string) error {
	if err := s.checkOwn(kind, key, nil); err != nil {
		return fmt.Errorf("delete row %s/%s: %w", kind, key, err)
	}
	if err := s.commit(true, func(t *tx) error { t.del(kind, key); return nil }); err != nil {
		return fmt.Errorf("delete row %s/%s: %w", kind, key, err)
	}
	return nil
}

// Apply takes rows of other writers in any order, newer ones win, and returns how many visible rows
// changed. It takes the rows' greatest Seq as "everything up to here is known": it is for whoever
// has a writer's whole stream at hand (the masters' ledger). Between processes use ApplyBatch,
// which notices gaps. Rows of Self are not taken.
func (s *Store) Apply(rows []discovery.Row) (changed int, err error) {
	for i := range rows {
		if err := rows[i].Validate(); err != nil {
			return 0, fmt.Errorf("apply row %s/%s of %s: %w", rows[i].Kind, rows[i].Key, rows[i].Writer, err)
		}
	}
	err = s.commit(false, func(t *tx) error {
		changed = t.applyAll(rows)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("apply %d rows: %w", len(rows), err)
	}
	return changed, nil
}

// Rows returns the live rows of a kind by (writer, key), of all kinds when empty by (writer, kind,
// key). Values are shared: they must not be changed.
func (s *Store) Rows(kind discovery.Kind) []discovery.Row {
	return s.now().live(kind)
}

// Find returns the live rows of a kind whose value holds text as a JSON string, most of them at most. It
// reads every row of the kind (10 ms for 100,000): it is for questions of people.
func (s *Store) Find(kind discovery.Kind, text string, most int) (found []discovery.Row) {
	quoted, err := json.Marshal(text)
	if err != nil {
		return nil // not a string of JSON, so in no value
	}
	s.now().each(kind, func(r *discovery.Row) {
		if len(found) < most && bytes.Contains(r.Value, quoted) {
			found = append(found, *r)
		}
	})
	return found
}

// Own returns the live rows that this store writes, by key (by kind and key when kind is empty).
func (s *Store) Own(kind discovery.Kind) []discovery.Row {
	return s.now().liveOf(s.self, kind)
}

// Incarnation returns the life that own rows are written in.
func (s *Store) Incarnation() uint64 {
	st := s.now().stream(discovery.Stream{Writer: s.self})
	return st.Incarnation
}

// Close ends the use of the folder. Rows can still be read; changes give ErrClosed.
func (s *Store) Close() error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.disk.Close(); err != nil {
		return fmt.Errorf("close row store: %w", err)
	}
	return nil
}

func (s *Store) checkOwn(kind discovery.Kind, key string, value []byte) error {
	if s.self == "" {
		return fmt.Errorf("this store has no writer of its own: %w", discovery.ErrInvalid)
	}
	return (&discovery.Row{Writer: s.self, Kind: kind, Key: key, Value: value, Incarnation: 1, Seq: 1}).Validate()
}
