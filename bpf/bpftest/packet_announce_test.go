// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// TestEdgeAnswersForWhatItLeads asks for addresses on the edge's link: those of VIPs that the node leads are answered
// with the link's MAC, all else is left to the node's stack.
func TestEdgeAnswersForWhatItLeads(t *testing.T) {
	b := newEdgeBench(t, true)
	own, asker, all := bpftest.MAC{2, 0xed}, bpftest.MAC{2, 7}, bpftest.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	led4, led6 := edgeFamilies["ipv4"].vip, edgeFamilies["ipv6"].vip
	for _, a := range []netip.Addr{led4, led6} {
		if err := b.Maps["edge_vips"].Put(row.EdgeVIPKey{Addr: row.AddrOf(a)}, row.EdgeVIP{Flags: row.EdgeVIPLed}); err != nil {
			t.Fatal(err)
		}
	}
	arp := func(target netip.Addr, operation uint16) []byte {
		return bpftest.ARPPacket{
			DstMAC: all, SrcMAC: asker, Operation: operation, SenderMAC: asker, SenderAddr: addr("203.0.113.254"), TargetAddr: target,
		}.Bytes()
	}
	from := addr("fe80::7")
	solicit := func(dst, target netip.Addr, change func(*bpftest.Packet)) []byte {
		p := bpftest.Neighbour(135, from, dst, target, asker)
		p.SrcMAC, p.DstMAC = asker, bpftest.MAC{0x33, 0x33, 0xff}
		if dst == target {
			p.DstMAC = own
		}
		if change != nil {
			change(&p)
		}
		return p.Bytes()
	}
	advert := bpftest.Neighbour(136, led6, from, led6, own)
	advert.SrcMAC, advert.DstMAC, advert.Payload = own, asker, nil
	told := bpftest.ARPPacket{
		DstMAC: asker, SrcMAC: own, Operation: 2, SenderMAC: own, SenderAddr: led4, TargetMAC: asker, TargetAddr: addr("203.0.113.254"),
	}.Bytes()
	group := addr("ff02::1:ff00:1")
	for _, r := range []struct {
		name   string
		frame  []byte
		linked bool // the link's MAC is known
		want   row.Reason
	}{
		{"arp, the link is not known", arp(led4, 1), false, row.ReasonNone},
		{"arp", arp(led4, 1), true, row.ReasonAnsweredARP},
		{"arp, an answer", arp(led4, 2), true, row.ReasonNone},
		{"arp, of a VIP that another leads", arp(edgeFamilies["ipv4"].shared, 1), true, row.ReasonNone},
		{"arp, of another", arp(edgeFamilies["ipv4"].other, 1), true, row.ReasonNone},
		{"arp, cut", arp(led4, 1)[:40], true, row.ReasonNone},
		{"nd", solicit(group, led6, nil), true, row.ReasonAnsweredND},
		{"nd, to the address", solicit(led6, led6, nil), true, row.ReasonAnsweredND},
		{"nd, of another", solicit(group, edgeFamilies["ipv6"].other, nil), true, row.ReasonNone},
		{"nd, not of this link", solicit(group, led6, func(p *bpftest.Packet) { p.TTL = 254 }), true, row.ReasonNone},
		{"nd, from nobody", solicit(group, led6, func(p *bpftest.Packet) { p.Src = netip.IPv6Unspecified() }), true, row.ReasonNone},
		{"nd, an advertisement", solicit(group, led6, func(p *bpftest.Packet) { p.ICMPType = 136 }), true, row.ReasonNone},
	} {
		t.Run(r.name, func(t *testing.T) {
			if r.linked {
				if err := b.Maps["edge_links"].Put(uint32(1), row.EdgeLink{MAC: own}); err != nil {
					t.Fatal(err)
				}
			}
			xdp, err := b.RunXDP("edge", r.frame)
			if err != nil {
				t.Fatal(err)
			}
			if xdp.Action != bpftest.XDPPass {
				t.Errorf("edge: got %s, want it left to edge_tc", xdp.Action)
			}
			got, err := b.runTC(r.frame, bpftest.Meta{})
			if err != nil {
				t.Fatal(err)
			}
			b.moved(t, r.frame, r.want, true)
			switch r.want {
			case row.ReasonAnsweredARP:
				if diff := cmp.Diff(told, got.Out); diff != "" {
					t.Errorf("told (-want +got):\n%s", diff)
				}
			case row.ReasonAnsweredND:
				if diff := cmp.Diff(advertised(advert, led6, own), got.Out); diff != "" {
					t.Errorf("told (-want +got):\n%s", diff)
				}
			default:
				if diff := cmp.Diff(r.frame, got.Out); diff != "" || got.Action != bpftest.Next {
					t.Errorf("%s (-want +got):\n%s", got.Action, diff)
				}
			}
		})
	}
}

// advertised is a neighbour advertisement of RFC 4861 4.4, solicited, overriding.
func advertised(p bpftest.Packet, target netip.Addr, mac bpftest.MAC) []byte {
	t := target.As16()
	p.ICMPRest = [4]byte{0xe0}
	p.Payload = append(append(t[:], 2, 1), mac[:]...)
	return p.Bytes()
}
