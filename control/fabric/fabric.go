// SPDX-License-Identifier: Apache-2.0

// Package fabric carries out what control/decision makes of requests and of nodes' rows, and tells of it. How decisions
// are kept and agreed on is control/ledger's, what nodes make of them is overlay's and lb's.
//
// The way of a decision:
//
//	operator ─ request ─┐                                       ┌─> rows of writer "ledger" -> nodes
//	                    ├─> pure function of ─> change ─> ledger ┤
//	nodes ──── rows ────┘   the newest snapshot  ^               └─> snapshot (every master's own)
//	           (leader only)                     └── again, if the ledger had moved on
package fabric

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/control/decision"
	"weft/control/ledger"
	"weft/discovery"
)

// Facts are the rows that nodes write, as the master's row store has them.
type Facts interface {
	decision.Facts
	// Changed returns a channel that is closed at the next change of one of the kinds.
	Changed(kinds ...discovery.Kind) <-chan struct{}
}

// Members tells who lives. Only what operators see and may do depends on it, no decision.
type Members interface {
	Alive(id discovery.NodeID) bool
}

// Options configure a Fabric.
type Options struct {
	// Self is this master as others find it; needed.
	Self discovery.Master
	// Ledger keeps the decisions; needed. It is run by the caller.
	Ledger *ledger.Ledger
	// Facts are what nodes say; needed.
	Facts Facts
	// Members, nil: every node counts as dead.
	Members Members
	// Now is the clock, by default the machine's.
	Now func() time.Time
	// Log, by default none.
	Log *slog.Logger
}

// Fabric makes decisions and tells them. It is a control.Service.
type Fabric struct {
	o      Options
	mirror *mirror

	leads                atomic.Bool
	decisions, conflicts atomic.Uint64
}

// Stats are what a Fabric has done since its start.
type Stats struct {
	Leads     bool
	Revision  uint64 // of the ledger, as far as it has come here
	Decisions uint64 // carried out
	Conflicts uint64 // made again, because another was faster
	Refusals  int    // that stand now
}

// Stats may be called at any time.
func (f *Fabric) Stats() Stats {
	s := f.mirror.now()
	return Stats{
		Leads: f.leads.Load(), Revision: s.Revision(), Decisions: f.decisions.Load(), Conflicts: f.conflicts.Load(),
		Refusals: s.Refused(),
	}
}

// New checks the options. Nothing is started until Run.
func New(o Options) (*Fabric, error) {
	var errs []error
	if o.Self.ID == "" {
		errs = append(errs, errors.New("a master needs an id"))
	}
	if o.Ledger == nil || o.Facts == nil {
		errs = append(errs, errors.New("a ledger and a store of rows are needed"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Fabric{o: o, mirror: newMirror()}, nil
}

// Run keeps up with the ledger and, whenever elected, decides, until ctx ends. It calls emit with the
// Rows of writer discovery.Ledger: first all, then those that change, by Seq, never a Seq in part.
// After a loss of the ledger it starts with all again. An error of emit ends it.
func (f *Fabric) Run(ctx context.Context, emit func([]discovery.Row) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.follow(ctx, emit) })
	group.Go(func() error { return f.retry(ctx, "introduce", f.introduce) })
	group.Go(func() error {
		return f.retry(ctx, "lead", func(ctx context.Context) error { return f.o.Ledger.Lead(ctx, f.reign) })
	})
	return group.Wait()
}

// emitError is an error of Run's emit: the end.
type emitError struct{ error }

// follow keeps the mirror equal to the ledger.
func (f *Fabric) follow(ctx context.Context, emit func([]discovery.Row) error) error {
	return f.retry(ctx, "follow the ledger", func(ctx context.Context) error {
		return f.o.Ledger.Watch(ctx, func(u ledger.Update) error {
			next, broken := f.mirror.now().Apply(u)
			list, err := next.Rows(u)
			if err := errors.Join(broken, err); err != nil {
				f.o.Log.Error("key of the ledger is left out", "error", err)
			}
			// Whoever waits for the mirror may count on the rows being out.
			if len(list) > 0 {
				if err := emit(list); err != nil {
					return emitError{fmt.Errorf("hand on %d rows of the ledger: %w", len(list), err)}
				}
			}
			f.mirror.set(next)
			return nil
		})
	})
}

// introduce makes this master known to the others.
func (f *Fabric) introduce(ctx context.Context) error {
	return f.transact(ctx, func(s *decision.Snapshot) (*decision.Decision, error) { return decision.Introduce(s, f.o.Self), nil })
}

// reign decides what nodes ask for, as long as this master leads.
func (f *Fabric) reign(ctx context.Context, fence ledger.Fence) error {
	f.o.Log.Info("leads", "master", f.o.Self.ID, "epoch", fence.Epoch)
	f.leads.Store(true)
	defer func() {
		f.leads.Store(false)
		f.o.Log.Info("leads no more", "master", f.o.Self.ID, "epoch", fence.Epoch)
	}()
	// What the leader before decided may not have come here yet; it can decide nothing more.
	if _, err := f.fresh(ctx); err != nil {
		return err
	}
	again := time.NewTicker(decision.Quarantine / 5)
	defer again.Stop()
	sweep := true
	for {
		told := f.o.Facts.Changed(discovery.KindNode, discovery.KindWant, discovery.KindBackend)
		s, moved := f.mirror.watch()
		began := f.o.Now()
		if d := f.lead(s, sweep); !d.Empty() {
			change := d.Change(s, f.started())
			change.Fence = fence
			if _, _, err := f.commit(ctx, change); err != nil {
				return err
			}
			continue
		}
		// Rest as long as that took (20 ms for 1,000 nodes), so that a storm of rows costs half a core.
		if err := pause(ctx, f.o.Now().Sub(began)); err != nil {
			return err
		}
		sweep = false
		select {
		case <-told:
		case <-moved:
		case <-again.C:
			sweep = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pause waits, or returns an error when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lead is what a leader has to decide now; sweep lets it look for numbers that nobody uses, too.
func (f *Fabric) lead(s *decision.Snapshot, sweep bool) *decision.Decision {
	c := decision.ReadClaims(f.o.Facts, f.o.Now())
	if sweep {
		c.Sweep()
	}
	d := decision.Plan(s, c)
	d.Lead(s, f.o.Self)
	return d
}

// commit tries to carry out a change, and waits for the snapshot that has it or, if made is false,
// what it was in conflict with.
func (f *Fabric) commit(ctx context.Context, change ledger.Change) (next *decision.Snapshot, made bool, err error) {
	revision, err := f.o.Ledger.Commit(ctx, change)
	switch {
	case err == nil:
		made = true
		f.decisions.Add(1)
	case errors.Is(err, ledger.ErrConflict):
		f.conflicts.Add(1)
	default:
		return nil, false, err
	}
	next, err = f.mirror.wait(ctx, revision)
	return next, made, err
}

// started is the incarnation of a ledger that starts now.
func (f *Fabric) started() uint64 { return uint64(f.o.Now().UnixNano()) }

// Bounds of the pause before something is tried again.
const minPause, maxPause = 50 * time.Millisecond, 2 * time.Second

// retry calls do until ctx ends, do succeeds at something that has an end, or an emit failed.
func (f *Fabric) retry(ctx context.Context, doing string, do func(context.Context) error) error {
	rest := minPause
	for {
		began := f.o.Now()
		err := do(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the end was asked for, and this is it
		}
		if end, ok := errors.AsType[emitError](err); ok {
			return end.error
		}
		f.o.Log.Warn("try again", "doing", doing, "error", err)
		if f.o.Now().Sub(began) > maxPause {
			rest = minPause
		}
		if pause(ctx, rest/2+rand.N(rest/2)) != nil { // jitter: the masters fail together
			return nil //nolint:nilerr // the end was asked for
		}
		rest = min(2*rest, maxPause)
	}
}
