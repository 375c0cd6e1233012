// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"

	"weft/discovery"
)

// maxWatched is how many names one stream may follow.
const maxWatched = 100

// Watcher calls send for what is true of names, VIPs and nodes, then for what changed, until ctx ends or send
// fails; discovery/httpapi has it.
type Watcher func(ctx context.Context, names []string, vips, nodes bool, send func(event string, document []byte) error) error

// RegisterWatch serves w on r, to so many at a time.
func RegisterWatch(r grpc.ServiceRegistrar, w Watcher, most int64) {
	RegisterWatchServer(r, &watchServer{watch: w, most: most, watchers: semaphore.NewWeighted(most)})
}

type watchServer struct {
	UnimplementedWatchServer
	watch    Watcher
	most     int64
	watchers *semaphore.Weighted
}

// Watch implements WatchServer.
func (s *watchServer) Watch(r *WatchRequest, stream grpc.ServerStreamingServer[WatchResponse]) error {
	names := r.GetNames()
	if len(names) > maxWatched || len(names) == 0 && !r.GetVips() && !r.GetNodes() {
		return failures.Status(fmt.Errorf("watch: names are %d: up to %d are allowed, and one of names, vips and nodes is needed: %w",
			len(names), maxWatched, discovery.ErrInvalid))
	}
	if !s.watchers.TryAcquire(1) {
		return failures.Status(fmt.Errorf("watch: %d watch at this socket now, which is as many as may at a time: %w", s.most, discovery.ErrExhausted))
	}
	defer s.watchers.Release(1)
	return failures.Status(s.watch(stream.Context(), names, r.GetVips(), r.GetNodes(), func(event string, document []byte) error {
		return stream.Send(&WatchResponse{Event: event, Document: document})
	}))
}

// Watch calls take for each event of the node at conn until ctx ends or take fails.
func Watch(ctx context.Context, conn grpc.ClientConnInterface, r *WatchRequest, take func(event string, document []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := NewWatchClient(conn).Watch(ctx, r)
	for err == nil {
		var event *WatchResponse
		event, err = stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err == nil && event.GetEvent() != "":
			err = take(event.GetEvent(), event.GetDocument())
		}
	}
	return fmt.Errorf("watch: %w", failures.Error(err))
}
