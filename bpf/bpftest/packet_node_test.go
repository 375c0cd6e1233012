// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf"
	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// asNode makes link 1, on which programs run, the node's own device.
func asNode(t *bpftest.Tables) {
	t.Workloads = map[uint32]row.Workload{webLink: {
		VNI: row.VNINodes, Identity: row.IdentityOtherNode, MTU: 1450, MAC: mac(nodeLink), Addr4: row.AddrOf(v4.own), Addr6: row.AddrOf(v6.own),
	}}
}

func TestFromNode(t *testing.T) {
	b := newBench(t, "node", change{tables: asNode})
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			p := tcp(a.own, a.remote)
			b.table(t, "from_node", []packetRow{
				{name: "a task of another node", packet: p, want: row.ReasonEncapsulated},
				{name: "any protocol", packet: with(p, func(p *bpftest.Packet) { p.Proto = bpftest.GRE }), want: row.ReasonEncapsulated},
				{name: "no task of this node", packet: tcp(a.own, a.none), want: row.ReasonNoEndpoint},
				{name: "a task of this node", packet: tcp(a.own, a.peer), want: row.ReasonNoEndpoint},
				{name: "in no block", packet: tcp(a.own, a.unheld), want: row.ReasonNoBlock},
				{name: "in no block of another network", packet: tcp(a.own, a.foreign), want: row.ReasonNoBlock},
				{name: "another node", packet: tcp(a.own, a.other), want: row.ReasonNoBlock},
				{name: "the world", packet: tcp(a.own, a.world), want: row.ReasonNoBlock},
				{name: "as a task", packet: tcp(a.web, a.remote), want: row.ReasonSpoofedAddress},
				{name: "as another node", packet: tcp(a.other, a.remote), want: row.ReasonSpoofedAddress},
				{name: "as the world", packet: tcp(a.world, a.remote), want: row.ReasonSpoofedAddress},
				{name: "multicast", packet: tcp(a.own, a.multicast), want: row.ReasonChatter},
				{name: "cut", packet: p, change: cut(1), want: row.ReasonMalformed},
				{name: "another type", packet: p, change: set(12, 0x88, 0xcc), want: row.ReasonNotIP},
				{name: "arp", packet: p, change: func([]byte) []byte { return bpftest.ARPPacket{}.Bytes() }, want: row.ReasonNotIP},
			})
			frame := p.Bytes()
			sent := b.expect(t, "from_node", frame, bpftest.Meta{}, row.ReasonEncapsulated)
			if vni, identity := binary.BigEndian.Uint32(sent[46:])>>8, binary.BigEndian.Uint16(sent[44:]); vni != netA || identity != row.IdentityOtherNode {
				t.Errorf("sent as identity %d of network %#x", identity, vni)
			}
			if diff := cmp.Diff(frame[14:], sent[64:]); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
			big := with(udp(a.own, a.remote), func(p *bpftest.Packet) { p.Payload = make([]byte, 1450-a.head()-7) }).Bytes()
			told := b.expect(t, "from_node", big, bpftest.Meta{}, row.ReasonAnsweredTooBig)
			want := bpftest.Packet{
				DstMAC: mac(nodeLink), SrcMAC: bpftest.Gateway, Src: a.remote, Dst: a.own, Proto: bpftest.ICMP, ICMPType: 3, ICMPCode: 4,
				ICMPRest: [4]byte{0, 0, 1450 >> 8, 1450 & 0xff}, Payload: big[14 : 14+128],
			}
			if !a.own.Is4() {
				want.Proto, want.ICMPType, want.ICMPCode, want.TTL = bpftest.ICMPv6, 2, 0, 255
			}
			if diff := cmp.Diff(want.Bytes(), told); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
	nobody := newBench(t, "node", change{tables: func(t *bpftest.Tables) { clear(t.Workloads) }})
	nobody.expect(t, "from_node", tcp(v4.own, v4.remote).Bytes(), bpftest.Meta{}, row.ReasonUnknownLink)
}

// addTunnel loads what comes by tunnel onto the maps of a bench.
func (b *bench) addTunnel(t *testing.T) {
	t.Helper()
	spec, err := bpftest.Spec("tunnel", bpf.Config{NodeAddr: node, Underlay: 1, Tunnel: 1, TunnelPort: 4789})
	if err != nil {
		t.Fatal(err)
	}
	if err := bpftest.GiveTunnelKey(spec.Programs["from_tunnel"]); err != nil {
		t.Fatal(err)
	}
	if err := b.Add(spec); err != nil {
		t.Fatal(err)
	}
}

// TestNodesAndTasksAnswerEachOther opens conversations between a task and another node, in a network without rules, and
// wants what answers to pass.
func TestNodesAndTasksAnswerEachOther(t *testing.T) {
	for name, a := range families {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "workload", change{})
			b.addTunnel(t)
			in := func(p bpftest.Packet, want row.Reason) {
				t.Helper()
				b.expect(t, "from_tunnel", p.Bytes(), bpftest.Meta{
					Tunnel: &bpftest.TunnelMeta{VTEP: otherNode, VNI: netA, Identity: row.IdentityOtherNode},
				}, want)
			}
			asked := with(udp(a.web, a.other), func(p *bpftest.Packet) { p.SPort, p.DPort = 40000, 53 })
			answer := with(udp(a.other, a.web), func(p *bpftest.Packet) { p.SPort, p.DPort = 53, 40000 })
			in(answer, row.ReasonNotPublic)
			b.expect(t, "from_workload", asked.Bytes(), bpftest.Meta{}, row.ReasonEncapsulated)
			in(answer, row.ReasonDelivered)
			in(with(answer, func(p *bpftest.Packet) { p.DPort = 40001 }), row.ReasonNotPublic)
			// What a node opens is no conversation that the task opened, though it answers.
			opened := with(udp(a.other, a.open), func(p *bpftest.Packet) { p.SPort, p.DPort = 40000, 53 })
			in(opened, row.ReasonDelivered)
			if len(b.Flows) != 1 || len(b.Attempts) != 1 {
				t.Errorf("%d flows and %d attempts, want what the task opened and what the node did", len(b.Flows), len(b.Attempts))
			}
		})
	}
}
