// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	wire "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/row"
	"weft/discovery/dns"
	"weft/discovery/zone"
)

// Ports of the servers that share an address.
const (
	portGo = 5301 + iota
	portPlain
	portNSD
	portKnot
	portUnbound
	portHosts
	portFile
	portWeftMesos
	portMesosDNS
)

// serveKernel is what netd is to a task: the packet path on its link, and the server that teaches it.
func serveKernel(ctx context.Context, o options) error {
	plane, err := bpf.Open(bpf.Options{Config: bpf.Config{NodeAddr: nodeAddr, Underlay: 1, DNS4: dnsAddr}})
	if err != nil {
		return err
	}
	link := uint32(o.ifindex)
	tables := plane.Tables()
	mac := [6]byte{0x0a, 0x58, 9, 0, 0, 5}
	err = errors.Join(
		tables.Workloads.Put(link, row.Workload{
			VNI: vni, Identity: row.IdentityUngrouped, MTU: 1450, MAC: mac, Block4: 24, Addr4: row.AddrOf(taskAddr),
		}),
		tables.Endpoints.Put(row.EndpointKey{VNI: vni, Addr: row.AddrOf(taskAddr)}, row.Endpoint{Ifindex: link, Identity: row.IdentityUngrouped, MAC: mac}),
		plane.AttachWorkload(link),
	)
	if err != nil {
		return errors.Join(err, plane.Close())
	}
	o.names = "" // no journal: nothing outlives this
	err = serveZone(ctx, o, dns.Options{
		Listen: []netip.AddrPort{netip.AddrPortFrom(dnsAddr, 53)}, Cache: plane.Answers(), CacheLimit: row.DNSLongData,
	})
	return errors.Join(err, plane.Close())
}

// serveGo is the same server without the kernel's part.
func serveGo(ctx context.Context, o options) error {
	return serveZone(ctx, o, dns.Options{Listen: []netip.AddrPort{netip.AddrPortFrom(wireNode.Addr(), portGo)}})
}

func serveZone(ctx context.Context, o options, d dns.Options) error {
	d.Rate = -1 // as the others
	s, err := dns.Open(d)
	if err != nil {
		return err
	}
	z := makeZone
	if o.tasks > o.few {
		z = makeLarge
	}
	s.SetZone(z(o.tasks), zone.Diff{All: true})
	debug.FreeOSMemory()
	return s.Run(ctx)
}

// servePlain is the least that the library makes a server of: two sockets, a map, an answer.
func servePlain(ctx context.Context, o options) error {
	answers, err := readPlain(o.names)
	if err != nil {
		return err
	}
	handler := wire.HandlerFunc(func(w wire.ResponseWriter, q *wire.Msg) {
		r := new(wire.Msg).SetReply(q)
		r.Authoritative = true
		name := strings.ToLower(q.Question[0].Name)
		if addr, ok := answers[name]; ok {
			r.Answer = []wire.RR{&wire.A{Hdr: wire.RR_Header{Name: name, Rrtype: wire.TypeA, Class: wire.ClassINET, Ttl: 5}, A: addr}}
		}
		_ = w.WriteMsg(r)
	})
	failed := make(chan error, 2) // one per socket
	for range 2 {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }), err)
		}}
		conn, err := config.ListenPacket(ctx, "udp", netip.AddrPortFrom(wireNode.Addr(), portPlain).String())
		if err != nil {
			return err
		}
		go func() { failed <- (&wire.Server{PacketConn: conn, Handler: handler}).ActivateAndServe() }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func readPlain(path string) (map[string]net.IP, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	answers := map[string]net.IP{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, addr, _ := strings.Cut(lines.Text(), " ")
		answers[name] = net.ParseIP(addr).To4()
	}
	return answers, nil
}

// held is what holdZone measured.
type held struct {
	Resident int64 `json:"resident"` // bytes of the process more than without a zone, garbage given back
	Live     int64 `json:"live"`     // bytes on the heap that the zone keeps alive
	Process  int64 `json:"process"`  // bytes of the whole process after the changes, garbage and all
	Change   int64 `json:"change"`   // ns of CPU for one change of one task
}

// holdZone makes a zone as a server has it and changes one task after another.
func holdZone(out io.Writer, o options) error {
	s, err := dns.Open(dns.Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}})
	if err != nil {
		return err
	}
	debug.FreeOSMemory()
	empty, none := residentMemory(), liveMemory()
	z := makeZone(o.tasks)
	s.SetZone(z, zone.Diff{All: true})
	debug.FreeOSMemory()
	h := held{Resident: residentMemory() - empty, Live: liveMemory() - none}
	const changes = 2000
	before := processTime(os.Getpid())
	for i := range changes {
		next, diff := z.With([]zone.Change{taskChange(i*7%o.tasks, 1)})
		s.SetZone(next, diff)
		z = next
	}
	h.Change = (processTime(os.Getpid()) - before) / changes
	h.Process = residentMemory()
	return json.NewEncoder(out).Encode(h)
}

// liveMemory is what the last collection left on the heap, bytes.
func liveMemory() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// residentMemory is this process's, bytes.
func residentMemory() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	_, _ = fmt.Sscan(string(text), &size, &resident)
	return resident * int64(os.Getpagesize())
}

// processTime is the CPU time of all threads of a process, nanoseconds, 0 when there is none: the
// kernel's clock of another process (clock_getcpuclockid(3)).
func processTime(pid int) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

// startWithin is long: a million names take a while to read on a busy machine.
const startWithin = 5 * time.Minute
