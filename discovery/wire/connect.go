// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Conn is a connection to one process.
type Conn = grpc.ClientConn

// Connect returns a connection to HOST:PORT, or to unix:PATH, which is made when it is used. Without credentials it
// is in clear.
func Connect(target string, c credentials.TransportCredentials) (*Conn, error) {
	if c == nil {
		c = insecure.NewCredentials()
	}
	if len(target) < 5 || target[:5] != "unix:" {
		target = "passthrough:" + target
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(c))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", target, err)
	}
	return conn, nil
}
