// SPDX-License-Identifier: Apache-2.0

// Package ledgertest has what tests of masters need of the machine.
package ledgertest

import (
	"fmt"
	"net"
	"os"
	"testing"
)

// Ports finds n free ports of the loopback, which stay so until they are listened at, as host:port.
func Ports(tb testing.TB, n int) (addrs []string) {
	tb.Helper()
	// Of this process alone: what another one opens meanwhile comes from 127.0.0.1 and listens there.
	pid := os.Getpid()
	own := fmt.Sprintf("127.%d.%d.%d:0", 64+pid>>16&63, pid>>8&255, pid&255)
	for range n {
		listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", own)
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { // all are held until all are found
			if err := listener.Close(); err != nil {
				tb.Error(err)
			}
		}()
		addrs = append(addrs, listener.Addr().String())
	}
	return addrs
}
