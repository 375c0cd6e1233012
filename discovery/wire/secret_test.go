// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"weft/discovery/wire"
)

// TestOnlyWhoHasTheSecretTalks asks a server of one secret by clients of others, and of none.
func TestOnlyWhoHasTheSecretTalks(t *testing.T) {
	t.Parallel()
	old, changed, other := []byte("0123456789abcdef"), []byte("fedcba9876543210"), []byte("................")
	for _, c := range []struct {
		name           string
		server, client [][]byte
		says           string // empty: they talk
	}{
		{"no secrets", nil, nil, ""},
		{"the same", [][]byte{old}, [][]byte{old}, ""},
		{"another", [][]byte{old}, [][]byte{other}, "the other side has another secret"},
		{"the client none", [][]byte{old}, nil, "error reading server preface"},
		{"the server none", nil, [][]byte{old}, "a side without a secret"},
		{"a server that knows the next", [][]byte{old, changed}, [][]byte{changed, old}, ""},
		{"a client behind, a server ahead", [][]byte{changed, old}, [][]byte{old, changed}, ""},
		{"a client that was left behind", [][]byte{changed}, [][]byte{old}, "the other side has another secret"},
		{"a server that shows what the client forgot", [][]byte{old, changed}, [][]byte{changed}, "the other side has another secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := ask(t, serve(t, c.server), c.client)
			// Nothing is registered: who is let in hears that.
			if in := status.Code(err) == codes.Unimplemented; in != (c.says == "") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
}

func serve(t *testing.T, secrets [][]byte) string {
	t.Helper()
	credentials, err := wire.Credentials(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials))
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func ask(t *testing.T, addr string, secrets [][]byte) error {
	t.Helper()
	credentials, err := wire.Credentials(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(credentials))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return conn.Invoke(ctx, "/weft.Test/Ask", &emptypb.Empty{}, &emptypb.Empty{})
}
