// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestEstablishedConnectionsAreCounted(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // the test is over
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	expect := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; {
			got, err := Established(os.Getpid(), []uint16{1, port})
			if err != nil {
				t.Fatal(err)
			}
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d connections, want %d", got, want)
			}
		}
	}
	expect(0)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	expect(1) // though nobody accepted it
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	expect(0)
	if _, err := Established(1<<30, nil); err == nil {
		t.Error("a process that is not there has a count")
	}
}
