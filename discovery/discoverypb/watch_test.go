// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weft/discovery"
)

func TestAWatchTellsUntilItsReaderHasEnough(t *testing.T) {
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	asked, gone := make(chan string, 1), make(chan struct{})
	RegisterWatch(server, func(ctx context.Context, names []string, vips, nodes bool, send func(string, []byte) error) error {
		defer close(gone)
		asked <- fmt.Sprint(names, vips, nodes)
		err := errors.Join(send("name", []byte(`{"name":"web."}`)), send("", nil), send("vips", []byte(`[]`)))
		<-ctx.Done()
		return errors.Join(err, ctx.Err())
	})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var events []string
	enough := errors.New("enough")
	err = Watch(t.Context(), conn, &WatchRequest{Names: []string{"web"}, Vips: true}, func(event string, document []byte) error {
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
