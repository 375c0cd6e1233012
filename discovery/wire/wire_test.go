// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/discovery/wire"
)

var (
	errFull   = errors.New("full")
	errAbsent = errors.New("absent")
)

func TestErrorsTravel(t *testing.T) {
	e := wire.Errors{Peer: "the peer", Sentinels: []wire.Sentinel{
		{Err: errFull, Code: codes.ResourceExhausted}, {Err: errAbsent, Code: codes.NotFound},
	}}
	for _, want := range []error{errFull, errAbsent, context.Canceled, context.DeadlineExceeded} {
		sent := fmt.Errorf("subnet %q: %w", "10.0.0.0/8", want)
		got := e.Error(e.Status(sent))
		if !errors.Is(got, want) || got.Error() != sent.Error() {
			t.Errorf("sent %q, got %q, which is no %v", sent, got, want)
		}
	}
	unknown := e.Error(e.Status(errors.New("disk on fire")))
	if unknown.Error() != "disk on fire" || errors.Is(unknown, errFull) {
		t.Errorf("an error without sentinel came as %q", unknown)
	}
	away := e.Error(status.Error(codes.Unavailable, "connection refused"))
	if want := "the peer does not answer: rpc error: code = Unavailable desc = connection refused"; away.Error() != want {
		t.Errorf("got %q, want %q", away, want)
	}
	if err := e.Error(nil); err != nil {
		t.Errorf("nil came as %v", err)
	}
}
