// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Conn is a connection to one process.
type Conn = grpc.ClientConn

// Dial makes connections, in a namespace of the caller's choice for example.
type Dial func(ctx context.Context, addr string) (net.Conn, error)

// window is what a side may send before the other has read it, bytes. It is fixed: to find out a better one, gRPC answers
// every message with a ping, and most messages here are one small change.
const window = 1 << 20

// Serving are the options of every server whose clients come by Connect.
func Serving() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window)}
}

// Connect returns a connection to HOST:PORT, or to unix:PATH, which is made when it is used: by dial, if that is not
// nil. Without credentials it is in clear.
func Connect(target string, c credentials.TransportCredentials, dial Dial) (*Conn, error) {
	if c == nil {
		c = insecure.NewCredentials()
	}
	if !strings.HasPrefix(target, "unix:") {
		target = "passthrough:" + target
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(c), grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
	}
	if dial != nil {
		options = append(options, grpc.WithContextDialer(dial))
	}
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", target, err)
	}
	return conn, nil
}
