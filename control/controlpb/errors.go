// SPDX-License-Identifier: Apache-2.0

package controlpb

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/control"
)

// sentinels says which code stands for which of control's errors.
var sentinels = []struct {
	err  error
	code codes.Code
}{
	{control.ErrInvalid, codes.InvalidArgument},
	{control.ErrExists, codes.AlreadyExists},
	{control.ErrNotFound, codes.NotFound},
	{control.ErrInUse, codes.FailedPrecondition},
	{control.ErrUnavailable, codes.Unavailable},
	{control.ErrDenied, codes.PermissionDenied},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

func toStatus(err error) error {
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			return status.Error(s.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// RemoteError is what a master answered: its text, and the sentinel that its code stands for.
type RemoteError struct {
	text string
	is   error
}

// Error implements error.
func (e *RemoteError) Error() string { return e.text }

// Unwrap returns the sentinel.
func (e *RemoteError) Unwrap() error { return e.is }

func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, s := range sentinels {
		if s.code == st.Code() {
			return &RemoteError{text: st.Message(), is: s.err}
		}
	}
	return &RemoteError{text: st.Message(), is: err}
}
