// SPDX-License-Identifier: Apache-2.0

package ipfix_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
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
	until(t, "nfcapd listens", func() bool { _, listens := queued(t, at.Port()); return listens })
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
	until(t, "nfcapd has read all", func() bool { bytes, _ := queued(t, at.Port()); return bytes == 0 })
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

// queued returns how many bytes wait at the UDP socket of a port of 127.0.0.1, and whether there is one
// (proc_net_udp(5)). To try the port would take it.
func queued(t *testing.T, port uint16) (bytes uint64, listens bool) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line) // slot, local address, remote address, state, tx_queue:rx_queue
		if len(fields) < 5 || fields[1] != fmt.Sprintf("0100007F:%04X", port) {
			continue
		}
		_, queue, _ := strings.Cut(fields[4], ":")
		if bytes, err = strconv.ParseUint(queue, 16, 64); err != nil {
			t.Fatal(err)
		}
		return bytes, true
	}
	return 0, false
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited 20 s until ", what)
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
