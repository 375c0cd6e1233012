// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft/discovery"
	"weft/discovery/state"
)

// Applied implements SyncServer.
func (s *Syncer) Applied(ctx context.Context, r *AppliedRequest) (*AppliedResponse, error) {
	if s.applied == nil {
		return nil, status.Error(codes.Unimplemented, "this process acts by no rows")
	}
	if err := s.applied(ctx, digestIn(&Digest{Known: r.GetKnown()}).Known); err != nil {
		return nil, failures.Status(err)
	}
	return &AppliedResponse{}, nil
}

// AwaitApplied returns nil when the other end of conn acts by rows up to where they are known.
// errors.ErrUnsupported tells that it can't say.
func AwaitApplied(ctx context.Context, conn grpc.ClientConnInterface, known map[discovery.Stream]discovery.Position) error {
	_, err := NewSyncClient(conn).Applied(ctx, &AppliedRequest{Known: digestOut(state.Digest{Known: known}).GetKnown()})
	if status.Code(err) == codes.Unimplemented {
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("await that rows are applied: %w", failures.Error(err))
	}
	return nil
}
