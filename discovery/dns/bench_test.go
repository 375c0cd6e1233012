// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	wire "github.com/miekg/dns"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// BenchmarkAskedEvenly asks over a socket for names one as often as the other: of those that may be resident, and of three times as
// many. cpu-ns/op is that of the process, asking included.
func BenchmarkAskedEvenly(b *testing.B) {
	for _, names := range []int{10_000, 200_000} {
		b.Run(fmt.Sprint(names), func(b *testing.B) {
			records, questions := make([]record.Record, names), make([][]byte, names)
			for i := range records {
				name := fmt.Sprintf("app-%07d.weft.mesos.", i)
				records[i] = record.Record{Name: name, Type: record.A, TTL: 5, Addr: netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)})}
				var err error
				if questions[i], err = new(wire.Msg).SetQuestion(name, wire.TypeA).Pack(); err != nil {
					b.Fatal(err)
				}
			}
			s, err := Open(Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.7:0")}, Rate: -1})
			if err != nil {
				b.Fatal(err)
			}
			s.SetZone(zone.New(zone.Options{Static: records}).Completed(), zone.Diff{All: true})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					b.Error(err)
				}
			}()
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.Addrs()[0]))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			askFor(b, conn, questions, 100_000)
			b.ReportAllocs()
			b.ResetTimer()
			before := processorTime()
			askFor(b, conn, questions, b.N)
			b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
			b.StopTimer()
		})
	}
}

// askFor asks n of the questions by lot, 32 at a time.
func askFor(b *testing.B, conn *net.UDPConn, questions [][]byte, n int) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	var answer [maxUDP]byte
	for sent, heard := 0, 0; heard < n; heard++ {
		for ; sent < n && sent < heard+32; sent++ {
			q := questions[rng.IntN(len(questions))]
			binary.BigEndian.PutUint16(q, uint16(sent))
			if _, err := conn.Write(q); err != nil {
				b.Fatal(err)
			}
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(answer[:]); err != nil {
			b.Fatal(err)
		}
	}
}

// processorTime is what this process took, nanoseconds.
func processorTime() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}
