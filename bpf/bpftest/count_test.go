// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// events returns what the programs of a bench reported since the last call.
func (b *bench) events(t *testing.T) []row.Event {
	t.Helper()
	ring, err := ringbuf.NewReader(b.Maps["events"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ring.Close() }() // the map stays
	ring.SetDeadline(time.Unix(1, 0))   // what is there is read all the same
	var events []row.Event
	for {
		record, err := ring.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return events
		}
		if err != nil {
			t.Fatal(err)
		}
		var e row.Event
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
}

func TestDropsAreReported(t *testing.T) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			p := with(tcp(a.web, a.db), func(p *bpftest.Packet) { p.DPort = 22 })
			want := row.Event{
				Ifindex: webLink, VNI: netA, Rule: ruleDeny, Src: row.AddrOf(a.web), Dst: row.AddrOf(a.db),
				Sport: row.Port(40000), Dport: row.Port(22), SrcIdentity: web, DstIdentity: db,
				Proto: bpftest.TCP, Reason: uint8(row.ReasonDenied), Program: row.ProgramFromWorkload, Len: uint32(len(p.Bytes())),
			}
			workload := newBench(t, "workload", change{})
			workload.expect(t, "from_workload", p.Bytes(), bpftest.Meta{}, row.ReasonDenied)
			wantEvents(t, workload, want)

			p.Src = a.remote
			tunnel := newBench(t, "tunnel", change{})
			tunnel.expect(t, "from_underlay", wrapped(web, p.Bytes()), bpftest.Meta{}, row.ReasonDenied)
			want.Src, want.Len, want.Program = row.AddrOf(a.remote), want.Len+50, row.ProgramFromUnderlay
			wantEvents(t, tunnel, want)
		})
	}
}

func wantEvents(t *testing.T, b *bench, want ...row.Event) {
	t.Helper()
	got := b.events(t)
	for _, e := range got {
		if e.Time == 0 {
			t.Error("an event has no time")
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(row.Event{}, "Time"), cmpopts.IgnoreUnexported(row.Event{}, row.Addr{})); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestReportsAreFew wants at most so many events a second, CPU and reason, and few of what passes.
func TestReportsAreFew(t *testing.T) {
	const limit = 5
	limited := func(n uint32) *bench {
		return newBench(t, "workload", change{config: func(c *bpf.Config) { c.EventsPerSecond = n }})
	}
	b := limited(limit)
	dropped, passed := tcp(v4.web, v4.none).Bytes(), tcp(v4.web, v4.peer).Bytes()
	run := func(b *bench, frame []byte, want row.Reason, count int) (events, seconds int) {
		start := time.Now()
		for range count {
			if r, err := b.RunExpecting("from_workload", frame, bpftest.Meta{}, want); err != nil || r.Reason != want {
				t.Fatalf("got %s, %v", r.Reason, err)
			}
		}
		return len(b.events(t)), int(time.Since(start)/time.Second) + 1
	}
	events, seconds := run(b, dropped, row.ReasonNoEndpoint, 300)
	if events < limit || events > limit*runtime.NumCPU()*seconds {
		t.Errorf("300 drops in %d s gave %d events, want %d a second and CPU", seconds, events, limit)
	}
	events, _ = run(b, passed, row.ReasonDelivered, 3000)
	if events < 1 || events > 3*runtime.NumCPU() {
		t.Errorf("3000 deliveries gave %d events, want one of 1024 per CPU", events)
	}
	if events, _ := run(limited(0), dropped, row.ReasonNoEndpoint, 10); events != 0 {
		t.Errorf("got %d events though none were wanted", events)
	}
}

// TestTracedFlowsAreReportedWhole wants every packet of a traced flow, both ways, as often as the trace
// says, and nothing else that passes.
func TestTracedFlowsAreReportedWhole(t *testing.T) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			onOneCPU(t)
			b := newBench(t, "workload", change{config: func(c *bpf.Config) { c.EventsPerSecond = 1 }})
			out := tcp(a.web, a.peer)
			other := with(out, func(p *bpftest.Packet) { p.SPort = 40001 })
			to := with(tcp(a.peer, a.web), func(p *bpftest.Packet) { p.SPort, p.DPort, p.Src = 80, 40000, a.world })
			b.expect(t, "from_workload", out.Bytes(), bpftest.Meta{}, row.ReasonDelivered) // the first is sampled
			b.expect(t, "to_workload", to.Bytes(), forwarded, row.ReasonNotPublic)         // the only one of this second
			b.events(t)
			traced := func(reasons ...row.Reason) {
				t.Helper()
				var got []row.Reason
				for _, e := range b.events(t) {
					if e.Traced != 1 {
						t.Errorf("%s was sampled", row.Reason(e.Reason))
					}
					got = append(got, row.Reason(e.Reason))
				}
				if diff := cmp.Diff(reasons, got); diff != "" {
					t.Errorf("traced (-want +got):\n%s", diff)
				}
			}
			run := func(repeats int) {
				t.Helper()
				for range repeats {
					b.expect(t, "from_workload", other.Bytes(), bpftest.Meta{}, row.ReasonDelivered)
					b.expect(t, "from_workload", out.Bytes(), bpftest.Meta{}, row.ReasonDelivered)
				}
			}
			key := row.TraceKey{VNI: netA, Addr: row.AddrOf(a.web), Port: row.Port(40000), Proto: bpftest.TCP}
			put := func(key row.TraceKey, tr row.Trace) {
				t.Helper()
				if err := b.Maps["traces"].Put(key, tr); err != nil {
					t.Fatal(err)
				}
			}
			put(key, row.Trace{Until: ^uint64(0), Left: 3})
			run(2)
			traced() // the switch is off
			if err := b.Variables["tracing"].Set(uint32(1)); err != nil {
				t.Fatal(err)
			}
			run(2)
			b.expect(t, "to_workload", to.Bytes(), forwarded, row.ReasonNotPublic)
			run(2) // no more are left
			traced(row.ReasonDelivered, row.ReasonDelivered, row.ReasonNotPublic)
			put(key, row.Trace{Until: 1, Left: 3})
			run(2)
			traced() // its time is over
			key.Port, key.Proto = 0, 0
			put(key, row.Trace{Until: ^uint64(0), Left: 4})
			run(3)
			traced(slices.Repeat([]row.Reason{row.ReasonDelivered}, 4)...)
		})
	}
}

// onOneCPU keeps the test, and so the programs that it runs, on one CPU: samples are taken by CPU.
func onOneCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the test
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for cpu := range len(all) * strconv.IntSize {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkPrograms tells nanoseconds per packet of walks that leave the packet as it was, for a
// test run repeats on what the last run left.
func BenchmarkPrograms(b *testing.B) {
	for _, r := range []struct {
		name, object, program string
		frame                 []byte
	}{
		{"deliver", "workload", "from_workload", tcp(v4.web, v4.peer).Bytes()},
		{"deliver6", "workload", "from_workload", tcp(v6.web, v6.peer).Bytes()},
		{"ruled", "workload", "from_workload", with(tcp(v4.web, v4.db), func(p *bpftest.Packet) { p.DPort = 5432 }).Bytes()},
		{"refuse", "workload", "from_workload", with(tcp(v4.web, v4.db), func(p *bpftest.Packet) { p.DPort = 23 }).Bytes()},
		{"host", "workload", "from_workload", tcp(v4.web, v4.world).Bytes()},
		{"underlay", "tunnel", "from_underlay", wrapped(stranger, tcp(v4.remote, v4.web).Bytes())},
		{"not ours", "tunnel", "from_underlay", tcp(v4.remote, v4.web).Bytes()},
	} {
		b.Run(r.name, func(b *testing.B) {
			set := benchSet(b, r.object)
			copy(r.frame[6:], bpftest.Gateway[:])
			if _, err := set.Run(r.program, r.frame, bpftest.Meta{}); err != nil {
				b.Fatal(err)
			}
			_, each, err := set.Programs[r.program].Benchmark(r.frame, b.N, b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "ns/packet")
		})
	}
}

// benchSet is a world in which web has the gateway's MAC, as what was delivered has.
func benchSet(b *testing.B, object string) *bpftest.Set {
	b.Helper()
	config := bpf.Config{NodeAddr: node, Underlay: 1, Tunnel: 1, TunnelPort: 4789, DNS4: dns4, DNS6: dns6, EventsPerSecond: 100}
	spec, err := bpftest.Spec(object, config)
	if err != nil {
		b.Fatal(err)
	}
	set, err := bpftest.Load(spec)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(set.Close)
	tables := newTables(1450)
	for link, w := range tables.Workloads {
		w.MAC = bpftest.Gateway
		tables.Workloads[link] = w
	}
	if err := tables.Fill(set); err != nil {
		b.Fatal(err)
	}
	return set
}
