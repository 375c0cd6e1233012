// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/lb/maglev"
)

// The world of the measurement: 1,000 VIPs, of which one has 100 backends and a table of 65,537 slots
// without a change, and another the same table in the middle of one.
const (
	vips     = 1000
	backends = 100
	size     = maglev.DefaultSize

	tunnelRoom = 50 // bytes in front of the IP header

	// Bars, ns: 0.6 times what katran takes for known flows, half of it for a SYN (issue 4).
	barKnown, barSYN = 40, 45
)

var (
	node     = netip.MustParseAddr("192.0.2.1")
	client4  = netip.MustParseAddr("198.51.100.77")
	client6  = netip.MustParseAddr("2001:db8:77::5")
	vip4     = netip.MustParseAddr("203.0.113.1")
	vip6     = netip.MustParseAddr("2001:db8:1::1")
	changing = netip.MustParseAddr("203.0.113.2") // all of its slots lead to two backends
)

// kind is one kind of packet.
type kind struct {
	name     string
	frame    []byte
	scramble bool
	bar      float64 // ns; 0: none
	action   bpftest.XDP
}

func kinds() []kind {
	packet := func(src, dst netip.Addr, proto, flags uint8) bpftest.Packet {
		return bpftest.Packet{
			DstMAC: bpftest.MAC{2, 1}, SrcMAC: bpftest.MAC{2, 2}, Src: src, Dst: dst, Frag: bpftest.DontFragment,
			Proto: proto, SPort: 40123, DPort: 80, Flags: flags, Payload: make([]byte, 20),
		}
	}
	plain := func(src, dst netip.Addr, proto, flags uint8) []byte { return packet(src, dst, proto, flags).Bytes() }
	// An answer of the VIP did not reach the client: a router says so.
	fails := func(src, dst netip.Addr, proto, code uint8) []byte {
		p := packet(netip.MustParseAddr("198.51.100.1"), dst, proto, 0)
		if dst.Is6() {
			p.Src = netip.MustParseAddr("2001:db8:77::1")
		}
		quoted := packet(dst, src, bpftest.TCP, bpftest.ACK)
		quoted.SPort, quoted.DPort = 80, 40123
		p.ICMPType, p.Payload = code, quoted.Bytes()[14:]
		return p.Bytes()
	}
	const tx, pass = bpftest.XDPTX, bpftest.XDPPass
	return []kind{
		{"udp", plain(client4, vip4, bpftest.UDP, 0), false, barKnown, tx},
		{"tcp_ack", plain(client4, vip4, bpftest.TCP, bpftest.ACK), false, barKnown, tx},
		{"tcp_syn", plain(client4, vip4, bpftest.TCP, bpftest.SYN), false, barSYN, tx},
		{"icmp_error", fails(client4, vip4, bpftest.ICMP, 3), false, 0, tx},
		{"ipv6_udp", plain(client6, vip6, bpftest.UDP, 0), false, barKnown, tx},
		{"ipv6_tcp_ack", plain(client6, vip6, bpftest.TCP, bpftest.ACK), false, barKnown, tx},
		{"ipv6_icmp_error", fails(client6, vip6, bpftest.ICMPv6, 1), false, 0, tx},
		{"syn_flood", plain(client4, vip4, bpftest.TCP, bpftest.SYN), true, 0, tx},
		{"udp_random_flows", plain(client4, vip4, bpftest.UDP, 0), true, 0, tx},
		{"changing_udp", plain(client4, changing, bpftest.UDP, 0), false, 0, tx},
		{"changing_tcp_ack", plain(client4, changing, bpftest.TCP, bpftest.ACK), false, 0, tx},
		{"changing_tcp_syn", plain(client4, changing, bpftest.TCP, bpftest.SYN), false, 0, tx},
		{"changing_syn_flood", plain(client4, changing, bpftest.TCP, bpftest.SYN), true, 0, tx},
		{"foreign", plain(client4, node, bpftest.TCP, bpftest.ACK), false, 0, pass},
	}
}

// stage is a loaded edge with its wrappers.
type stage struct {
	set    *bpftest.Set
	kinds  []kind
	undone map[bool]*bpftest.Undone // by kind.scramble
}

func (s *stage) close() {
	for _, u := range s.undone {
		u.Close()
	}
	s.set.Close()
}

func newStage() (*stage, error) {
	specs, err := bpf.Specs()
	if err != nil {
		return nil, err
	}
	spec := specs["edge"]
	if err := bpf.Configure(spec, bpf.Config{NodeAddr: node, Underlay: 1, TunnelPort: 4789, EventsPerSecond: 100, EdgeSeed: 0x5eed}); err != nil {
		return nil, err
	}
	set, err := bpftest.LoadWhole(spec)
	if err != nil {
		return nil, err
	}
	s := &stage{set: set, kinds: kinds(), undone: make(map[bool]*bpftest.Undone)}
	if err := s.fill(); err != nil {
		return nil, err
	}
	for _, scramble := range []bool{false, true} {
		if s.undone[scramble], err = set.Undo("edge", tunnelRoom, scramble); err != nil {
			return nil, err
		}
	}
	return s, s.check()
}

// check wants every kind to go where it says: else the figures were of something else.
func (s *stage) check() error {
	for _, k := range s.kinds {
		for range 2 { // the second meets what the first learnt
			got, err := s.set.RunXDP("edge", k.frame)
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			if got.Action != k.action {
				return fmt.Errorf("%s: the edge says %s, want %s", k.name, got.Action, k.action)
			}
			action, left, err := s.undone[k.scramble].Run(k.frame)
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			if action != k.action || len(left) != len(k.frame) {
				return fmt.Errorf("%s: the wrapper says %s and leaves %d bytes of %d", k.name, action, len(left), len(k.frame))
			}
		}
	}
	return nil
}

// fill writes the rows.
func (s *stage) fill() error {
	vipTable, err := table.NewKernel[row.EdgeVIPKey, row.EdgeVIP](s.set.Maps["edge_vips"], "edge_vips")
	if err != nil {
		return err
	}
	slotTable, err := table.NewKernel[uint32, row.EdgeSlot](s.set.Maps["edge_slots"], "edge_slots")
	if err != nil {
		return err
	}
	backendTable, err := table.NewKernel[uint32, row.EdgeBackend](s.set.Maps["edge_backends"], "edge_backends")
	if err != nil {
		return err
	}
	var members []maglev.Backend
	for i := range uint32(backends) {
		b := row.EdgeBackend{VTEP: row.AddrOf(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)})), VNI: 0x101, Task: [8]uint8{0, 0, 0xff, 0xff, 9, 1, 0, byte(i)}, MTU: 1450}
		if err := bpftest.KnowHop(s.set, b.VTEP, [12]uint8{2, 0, 0, 0, 1, byte(i), 2, 1}); err != nil {
			return err
		}
		if err := backendTable.Put(i+1, b); err != nil {
			return err
		}
		members = append(members, maglev.Backend{Key: fmt.Sprintf("9.1.0.%d:80", i), ID: i + 1, Weight: 1})
	}
	t, err := maglev.Build(size, members)
	if err != nil {
		return err
	}
	indexes, slots := make([]uint32, 2*size), make([]row.EdgeSlot, 2*size)
	for i, id := range t {
		indexes[i], slots[i] = uint32(i), row.EdgeSlot{Current: id, Previous: id}
		indexes[size+i], slots[size+i] = uint32(size+i), row.EdgeSlot{Current: id, Previous: (id%backends + 1) | row.EdgeSlotKept}
	}
	for _, err := range slotTable.PutMany(indexes, slots) {
		return err
	}
	if err := s.set.Maps["edge_generation"].Put(uint32(0), uint32(1)); err != nil {
		return fmt.Errorf("set generation: %w", err)
	}
	for i := range vips {
		for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
			for _, a := range []netip.Addr{vip4, vip6, netip.AddrFrom4([4]byte{203, 0, byte(100 + i/256), byte(i)})} {
				key := row.EdgeVIPKey{Addr: row.AddrOf(a), Port: row.Port(80), Proto: proto}
				if err := vipTable.Put(key, row.EdgeVIP{Slots: size}); err != nil {
					return err
				}
			}
			key := row.EdgeVIPKey{Addr: row.AddrOf(changing), Port: row.Port(80), Proto: proto}
			if err := vipTable.Put(key, row.EdgeVIP{First: size, Slots: size}); err != nil {
				return err
			}
		}
	}
	return nil
}
