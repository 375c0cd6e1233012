// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

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
	if want := "the peer does not answer: connection refused"; away.Error() != want || status.Code(away) != codes.Unavailable {
		t.Errorf("got %q of code %s, want %q", away, status.Code(away), want)
	}
	if err := e.Error(nil); err != nil {
		t.Errorf("nil came as %v", err)
	}
}

// TestAnAbsentPeerIsToldInOurWords asks nobody, at once and patiently.
func TestAnAbsentPeerIsToldInOurWords(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "none.sock")
	e := wire.Errors{Peer: "the peer"}
	want := "the peer does not answer: dial unix " + socket + ": connect: no such file or directory"
	for _, patient := range []bool{false, true} {
		conn, err := wire.Connect("unix:"+socket, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() }) // it was never made
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		err = e.Error(conn.Invoke(ctx, "/any/Method", &emptypb.Empty{}, &emptypb.Empty{}, grpc.WaitForReady(patient)))
		if err == nil || err.Error() != want || errors.Is(err, context.DeadlineExceeded) != patient {
			t.Errorf("patient %t: got %v, want %q", patient, err, want)
		}
	}
}
