// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// BenchmarkInstructions tells what a packet costs in each program, on the ways that packets take most. In a
// guest whose clock counts instructions (make bench-instructions) these are exact, and the same in
// every run; on the host they are nanoseconds, of a cold program: each packet is run alone, for a
// program that changes it would meet its own work the second time.
func BenchmarkInstructions(b *testing.B) {
	for _, way := range []struct {
		name, object, program string
		frame                 []byte
		want                  row.Reason
	}{
		{"to_node", "workload", "from_workload", tcp(v4.web, v4.remote).Bytes(), row.ReasonEncapsulated},
		{"to_node_v6", "workload", "from_workload", tcp(v6.web, v6.remote).Bytes(), row.ReasonEncapsulated},
		{"to_peer", "workload", "from_workload", tcp(v4.web, v4.peer).Bytes(), row.ReasonDelivered},
		{"to_world", "workload", "from_workload", tcp(v4.web, v4.world).Bytes(), row.ReasonToHost},
		{"a_name", "workload", "from_workload", question().Bytes(), row.ReasonAnsweredDNS},
		{"an_unknown_name", "workload", "from_workload", with(question(), func(p *bpftest.Packet) { p.Payload[13] = 'q' }).Bytes(), row.ReasonDNSMiss},
		{"from_node", "tunnel", "from_underlay", wrapped(web, tcp(v4.remote, v4.web).Bytes()), row.ReasonDelivered},
		{"from_node_v6", "tunnel", "from_underlay", wrapped(web, tcp(v6.remote, v6.web).Bytes()), row.ReasonDelivered},
		{"from_node_by_rule", "tunnel", "from_underlay", wrapped(web, ruled()), row.ReasonDelivered},
	} {
		b.Run(way.program+"/"+way.name, func(b *testing.B) {
			set := newBench(b, way.object, change{})
			know(b, set)
			if got, err := set.RunExpecting(way.program, way.frame, bpftest.Meta{}, way.want); err != nil || got.Reason != way.want {
				b.Fatalf("got %s (%v), want %s", got.Reason, err, way.want)
			}
			b.ReportMetric(cheapest(b, set.Programs[way.program], way.frame)-cheapest(b, idle(b), way.frame), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkInstructionsVIP is the same of what is balanced per packet: what a task sends to a VIP whose backend is on another
// node, and what comes back, of a flow that is known; and what opens one.
func BenchmarkInstructionsVIP(b *testing.B) {
	remote := row.Peer{Addr: row.AddrOf(v4.remote), Port: row.Port(8080)}
	vip := row.Peer{Addr: row.AddrOf(v4.vip), Port: row.Port(80)}
	for name, proto := range map[string]uint8{"tcp": bpftest.TCP, "udp": bpftest.UDP} {
		tables := func(t *bpftest.Tables) {
			t.VIPs.VIPs[row.VIPKey{VNI: netA, Addr: vip.Addr, Port: vip.Port, Proto: proto}] = row.VIP{ID: 1, Backends: 1, Weight: 1, Policy: row.VIPLeastLatency}
			t.Backends[row.BackendKey{VIP: 1}] = row.Backend{Addr: remote.Addr, Port: remote.Port, Weight: 1, ID: 1}
			t.Asks[webLink] = true
		}
		to := with(tcp(v4.web, v4.vip), func(p *bpftest.Packet) { p.Proto = proto })
		from := func(port uint16) []byte {
			syn := with(to, func(p *bpftest.Packet) { p.SPort, p.Flags = port, bpftest.SYN })
			return syn.Bytes()
		}
		b.Run("from_workload/"+name+"_to_vip", func(b *testing.B) {
			set := newBench(b, "workload", change{tables: tables})
			open, err := set.Run("from_workload", from(to.SPort), bpftest.Meta{Ifindex: webLink})
			if err != nil || open.Reason != row.ReasonEncapsulated {
				b.Fatalf("got %s (%v), want %s", open.Reason, err, row.ReasonEncapsulated)
			}
			b.ReportMetric(cheapest(b, set.Programs["from_workload"], to.Bytes())-cheapest(b, idle(b), to.Bytes()), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
		b.Run("from_workload/"+name+"_opens", func(b *testing.B) {
			set := newBench(b, "workload", change{tables: tables})
			best := 0.0
			for i := range uint16(50) {
				_, took, err := set.Programs["from_workload"].Benchmark(from(50000+i), 1, nil)
				if err != nil {
					b.Fatal(err)
				}
				if ns := float64(took.Nanoseconds()); best == 0 || ns < best {
					best = ns
				}
			}
			b.ReportMetric(best-cheapest(b, idle(b), to.Bytes()), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
		b.Run("from_underlay/"+name+"_from_vip", func(b *testing.B) {
			answer := with(tcp(v4.remote, v4.web), func(p *bpftest.Packet) { p.Proto, p.SPort, p.DPort, p.Flags = proto, 8080, to.SPort, bpftest.ACK })
			key := row.FlowKey{VNI: netA, Src: remote.Addr, Dst: row.AddrOf(v4.web), Sport: remote.Port, Dport: row.Port(to.SPort), Proto: proto}
			set := newBench(b, "tunnel", change{tables: func(t *bpftest.Tables) {
				tables(t)
				t.Translations[key] = row.Translation{To: vip, BackendID: 1, VIPID: 1, State: row.TranslationAnswered}
			}})
			frame := wrapped(web, answer.Bytes())
			if got, err := set.RunExpecting("from_underlay", frame, bpftest.Meta{}, row.ReasonDelivered); err != nil || got.Reason != row.ReasonDelivered {
				b.Fatalf("got %s (%v), want %s", got.Reason, err, row.ReasonDelivered)
			}
			b.ReportMetric(cheapest(b, set.Programs["from_underlay"], frame)-cheapest(b, idle(b), frame), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkInstructionsEdge is the same of the edge in XDP: to a node whose next hop is known, over both families.
func BenchmarkInstructionsEdge(b *testing.B) {
	for underlay, at := range edgeUnderlays {
		for family, a := range edgeFamilies {
			b.Run("edge/"+family+strings.ReplaceAll(underlay, " ", "_"), func(b *testing.B) {
				e := newEdgeBenchAt(b, at, true)
				frame := a.to(portPlain, bpftest.UDP, 0).Bytes()
				if got, err := e.RunXDP("edge", frame); err != nil || got.Action != bpftest.XDPTX {
					b.Fatalf("got %s (%v), want %s", got.Action, err, bpftest.XDPTX)
				}
				b.ReportMetric(cheapest(b, e.Programs["edge"], frame)-cheapest(b, idleXDP(b), frame), "ns/packet")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkInstructionsEdgeHop is the same where the next hop has to be asked for.
func BenchmarkInstructionsEdgeHop(b *testing.B) {
	runtime.LockOSThread() // never given back: the thread ends in the namespace
	do := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	do(unix.Unshare(unix.CLONE_NEWNET))
	do(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "u0"}, PeerName: "u1"}))
	var device netlink.Link
	for _, name := range []string{"u1", "u0"} {
		l, err := netlink.LinkByName(name)
		do(err)
		do(netlink.LinkSetUp(l))
		device = l
	}
	do(netlink.AddrAdd(device, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(node, 24))}))
	do(os.WriteFile("/proc/sys/net/ipv4/conf/all/forwarding", []byte("1"), 0o644))
	e := newEdgeBenchAt(b, node, true)
	frame := edgeFamilies["ipv4"].to(portRouted, bpftest.UDP, 0).Bytes()
	hop := e.Backends[backendRouted].VTEP
	do(netlink.NeighSet(&netlink.Neigh{
		LinkIndex: device.Attrs().Index, IP: hop.Netip().AsSlice(), HardwareAddr: []byte{2, 0, 0, 0, 0, 1}, State: netlink.NUD_PERMANENT,
	}))
	best := 0.0
	for range 50 {
		do(bpftest.ForgetHop(e.Set, hop))
		action, took, err := e.Programs["edge"].Benchmark(frame, 1, nil)
		do(err)
		if bpftest.XDP(action) != bpftest.XDPRedirect {
			b.Fatalf("got %s, want %s", bpftest.XDP(action), bpftest.XDPRedirect)
		}
		if ns := float64(took.Nanoseconds()); best == 0 || ns < best {
			best = ns
		}
	}
	b.ReportMetric(best-cheapest(b, idleXDP(b), frame), "ns/packet")
	b.ReportMetric(0, "ns/op")
}

// name is what question asks for, in wire form.
const name = "\x03web\x04weft\x05mesos\x00"

// question asks the node for the address of a name: id 1, recursion desired, one question of type A and class IN.
func question() bpftest.Packet {
	p := udp(v4.web, v4.dns)
	p.DPort = 53
	p.Payload = []byte("\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + "\x00\x01\x00\x01")
	return p
}

// know makes the kernel know question's answer, where the object answers names.
func know(b *testing.B, set *bench) {
	b.Helper()
	if set.Maps["dns_answers"] == nil {
		return
	}
	known, err := bpftest.Answers(set.Maps)
	if err != nil {
		b.Fatal(err)
	}
	record := []byte("\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x09\x00\x00\x09")
	if err := known.Put(set.Workloads[webLink].VNI, []byte(name), 1, 0, 1, 0, 0, uint8(len(record)), record); err != nil {
		b.Fatal(err)
	}
}

func ruled() []byte {
	p := tcp(v4.remote, v4.db)
	p.DPort = 5432
	return p.Bytes()
}

// idle is a program that does nothing: what the test run itself costs.
func idle(b *testing.B) *ebpf.Program {
	b.Helper()
	return idleOf(b, ebpf.SchedCLS, -1)
}

func idleXDP(b *testing.B) *ebpf.Program {
	b.Helper()
	return idleOf(b, ebpf.XDP, int32(bpftest.XDPPass))
}

func idleOf(b *testing.B, kind ebpf.ProgramType, action int32) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "idle", Type: kind, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, action), asm.Return()},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close() })
	return p
}

// cheapest runs a program on a frame, each time anew, and returns the nanoseconds of the best run.
func cheapest(b *testing.B, p *ebpf.Program, frame []byte) float64 {
	b.Helper()
	best := 0.0
	for range 50 {
		_, took, err := p.Benchmark(frame, 1, nil)
		if err != nil {
			b.Fatal(err)
		}
		if ns := float64(took.Nanoseconds()); best == 0 || ns < best {
			best = ns
		}
	}
	return best
}
