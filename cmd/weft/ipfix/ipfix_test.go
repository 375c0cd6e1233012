// SPDX-License-Identifier: Apache-2.0

package ipfix_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft/cmd/weft/ipfix"
	"weft/overlay"
)

// TestCollectorReadsFlows sends events to nfdump's collector and reads its file.
func TestCollectorReadsFlows(t *testing.T) {
	for _, tool := range []string{"nfcapd", "nfdump"} {
		if _, err := exec.LookPath(tool); errors.Is(err, exec.ErrNotFound) {
			t.Skipf("%s is not installed (Debian: nfdump)", tool)
		}
	}
	at, dir := freePort(t), t.TempDir()
	collector := exec.CommandContext(t.Context(), "nfcapd", "-w", dir, "-p", fmt.Sprint(at.Port()), "-b", at.Addr().String(), "-t", "3600")
	collector.Stderr, collector.Stdout = os.Stderr, os.Stderr
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for listens := false; !listens; { // until the collector has the port
		if time.Now().After(deadline) {
			t.Fatal("nfcapd does not listen")
		}
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if listens = err != nil; !listens {
			_ = c.Close() // it was only tried
			time.Sleep(20 * time.Millisecond)
		}
	}
	x, err := ipfix.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	event := func(src, dst, proto string, drop bool, packets int) overlay.Event {
		return overlay.Event{
			Time: time.Now(), Source: netip.MustParseAddrPort(src), Destination: netip.MustParseAddrPort(dst), Protocol: proto,
			Length: 100, Packets: packets, Drop: drop,
		}
	}
	for _, e := range []overlay.Event{
		event("9.0.0.1:40000", "9.0.0.2:80", "tcp", false, 1024), event("9.0.0.3:40001", "9.0.0.4:53", "udp", true, 1),
		event("[fd01::1]:40002", "[fd01::2]:443", "tcp", false, 1),
	} {
		if err := x.Send(e); err != nil {
			t.Fatal(err)
		}
	}
	x.Close()
	time.Sleep(500 * time.Millisecond) // the collector says nothing of what it has read
	if err := collector.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = collector.Wait() // its status tells of the signal
	out, err := exec.CommandContext(t.Context(), "nfdump", "-R", dir, "-q", "-N", "-6", "-o", "fmt:%sa %sp %da %dp %pr %byt %pkt").CombinedOutput()
	if err != nil {
		t.Fatalf("nfdump: %v: %s", err, out)
	}
	got := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{
		"9.0.0.1 40000 9.0.0.2 80 6 102400 1024", "9.0.0.3 40001 9.0.0.4 53 17 100 1", "fd01::1 40002 fd01::2 443 6 100 1",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the collector has %q, want %q in it", got, want)
		}
	}
}

// freePort returns an address of the loopback that nobody has.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // given free again
	return netip.MustParseAddrPort(c.LocalAddr().String())
}
