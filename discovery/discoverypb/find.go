// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"weft/discovery"
)

// foundAtMost bounds an answer of Find: who gets as many has asked for too much.
const foundAtMost = 100

// Find implements SyncServer.
func (s *Syncer) Find(_ context.Context, r *FindRequest) (*FindResponse, error) {
	return &FindResponse{Rows: rowsOut(s.store.Find(discovery.Kind(r.GetKind()), r.GetText(), foundAtMost))}, nil
}

// Ask returns the rows of a kind that the other end of conn holds and whose value holds text as a JSON
// string, the first hundred of them.
func Ask(ctx context.Context, conn grpc.ClientConnInterface, kind discovery.Kind, text string) ([]discovery.Row, error) {
	found, err := NewSyncClient(conn).Find(ctx, &FindRequest{Kind: string(kind), Text: text})
	if err != nil {
		return nil, fmt.Errorf("ask for %s rows with %q: %w", kind, text, failures.Error(err))
	}
	return rowsIn(found.GetRows()), nil
}
