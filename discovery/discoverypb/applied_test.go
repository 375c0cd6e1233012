// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
	"weft/discovery/state"
)

func TestAppliedIsAnsweredWhenItIsSo(t *testing.T) {
	endpoints := discovery.KindEndpoint.Topic("")
	want := map[discovery.Stream]discovery.Position{
		{Writer: "n1"}:                   {Incarnation: 7, Seq: 9},
		{Writer: "n1", Topic: endpoints}: {Incarnation: 7, Seq: 2},
		{Writer: "ledger"}:               {Incarnation: 1, Seq: 1 << 40},
	}
	s, asked := syncer(t, openStore(t, state.Options{Self: "n2"})), make(chan map[discovery.Stream]discovery.Position, 1)
	release := make(chan error)
	s.applied = func(ctx context.Context, known map[discovery.Stream]discovery.Position) error {
		asked <- known
		select {
		case err := <-release:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	conn, _ := serve(t, s)
	done := make(chan error, 1)
	go func() { done <- AwaitApplied(t.Context(), conn, want) }()
	if d := cmp.Diff(want, <-asked); d != "" {
		t.Errorf("asked for (-want +got):\n%s", d)
	}
	select {
	case err := <-done:
		t.Fatalf("answered %v before it was so", err)
	default:
	}
	release <- nil
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := AwaitApplied(ctx, conn, want); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
}

func TestWhoAppliesNothingSaysSo(t *testing.T) {
	conn, _ := serve(t, syncer(t, openStore(t, state.Options{})))
	if err := AwaitApplied(t.Context(), conn, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v, want ErrUnsupported", err)
	}
}
