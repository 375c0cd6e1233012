// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"weft/discovery"
)

func watched(t *testing.T, most int64, w Watcher) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	RegisterWatch(server, w, most)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestAWatchTellsUntilItsReaderHasEnough(t *testing.T) {
	asked, gone := make(chan string, 1), make(chan struct{})
	conn := watched(t, 1, func(ctx context.Context, names []string, vips, nodes bool, send func(string, []byte) error) error {
		defer close(gone)
		asked <- fmt.Sprint(names, vips, nodes)
		err := errors.Join(send("name", []byte(`{"name":"web."}`)), send("", nil), send("vips", []byte(`[]`)))
		<-ctx.Done()
		return errors.Join(err, ctx.Err())
	})
	var events []string
	enough := errors.New("enough")
	err := Watch(t.Context(), conn, &WatchRequest{Names: []string{"web"}, Vips: true}, func(event string, document []byte) error {
		if events = append(events, event+" "+string(document)); len(events) == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || !slices.Equal(events, []string{`name {"name":"web."}`, "vips []"}) {
		t.Errorf("events %q, %v", events, err)
	}
	if got := <-asked; got != "[web] true false" {
		t.Errorf("asked for %s", got)
	}
	<-gone // the node is told that its reader went away
	if err := Watch(t.Context(), conn, &WatchRequest{}, nil); !errors.Is(err, discovery.ErrInvalid) {
		t.Errorf("a watch of nothing: %v, want ErrInvalid", err)
	}
}

// One more than may watch is told how many do, and may when another has gone.
func TestWatchersAreCounted(t *testing.T) {
	const most = 3
	conn := watched(t, most, func(ctx context.Context, _ []string, _, _ bool, send func(string, []byte) error) error {
		err := send("nodes", nil)
		<-ctx.Done()
		return errors.Join(err, ctx.Err())
	})
	watching, done := make(chan struct{}, most), make(chan error, most)
	var last context.CancelFunc
	for range most {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		last = cancel
		go func() {
			done <- Watch(ctx, conn, &WatchRequest{Nodes: true}, func(string, []byte) error {
				watching <- struct{}{}
				return nil
			})
		}()
	}
	for range most {
		select {
		case <-watching:
		case err := <-done:
			t.Fatal(err)
		}
	}
	enough := errors.New("enough")
	oneMore := func() error {
		return Watch(t.Context(), conn, &WatchRequest{Nodes: true}, func(string, []byte) error { return enough })
	}
	err := oneMore()
	if !errors.Is(err, discovery.ErrExhausted) || !strings.Contains(err.Error(), "3 watch at this socket now") {
		t.Errorf("one more: %v, want ErrExhausted and how many watch", err)
	}
	if code := status.Code(exhausted(t, conn)); code != codes.ResourceExhausted {
		t.Errorf("one more gets %s, want ResourceExhausted", code)
	}
	last()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !errors.Is(err, enough); err = oneMore() {
		if time.Now().After(deadline) {
			t.Fatalf("a place that was given back is nobody's: %v", err)
		}
	}
}

// exhausted is what gRPC says to one more.
func exhausted(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	stream, err := NewWatchClient(conn).Watch(t.Context(), &WatchRequest{Nodes: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	return err
}
