// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"net/netip"

	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/compile"
)

// policy is about groups and rules, between tasks of the node.
func policy(w *world) (list []fault) {
	for _, a := range families {
		to := func(name string) netip.Addr { return a.of(w.tasks[name]) }
		local := func(name, from, dst string, want row.Reason, change func(*bpftest.Packet)) {
			list = append(list, w.at(a, name, from, to(dst), want, change))
		}
		local("web to db, a port beside the rule's", "web", "db", row.ReasonNoCommonGroup, service(bpftest.TCP, 80))
		local("web to db, another protocol than the rule's", "web", "db", row.ReasonNoCommonGroup, service(bpftest.UDP, 5432))
		local("web to db, a port that is denied", "web", "db", row.ReasonDenied, service(bpftest.TCP, 22))
		local("web to db, a port in audit", "web", "db", row.ReasonAudited, service(bpftest.UDP, 53))
		local("web to db, ping", "web", "db", row.ReasonNoCommonGroup, a.echo)
		local("web to web, ping denied among their own", "web", "web2", row.ReasonDenied, a.echo)
		local("db to web, against the rule's direction", "db", "web", row.ReasonNoCommonGroup, service(bpftest.TCP, 5432))
		local("bare to db, no group", "bare", "db", row.ReasonNoCommonGroup, nil)
		local("web to bare, a receiver without group", "web", "bare", row.ReasonNoCommonGroup, nil)
		local("open to web, public accepts and may not all", "open", "web", row.ReasonNoCommonGroup, nil)
		local("an answer that nobody asked for", "web", "db", row.ReasonNoCommonGroup, func(p *bpftest.Packet) {
			p.SPort, p.DPort, p.Flags = 80, 40000, bpftest.SYN|bpftest.ACK
		})
		local("another protocol altogether", "web", "db", row.ReasonNoCommonGroup, func(p *bpftest.Packet) { p.Proto = bpftest.GRE })
		local("a later fragment before its first", "web", "db", row.ReasonFragment, func(p *bpftest.Packet) {
			p.Proto, p.DPort, p.Frag, p.ID = bpftest.UDP, 5432, 185, 77
		})
		list = append(list, outside(w, a)...)
	}
	return list
}

// outside is what the node's stack forwards to a task.
func outside(w *world, a family) (list []fault) {
	forwarded := func(name, dst string, src netip.Addr, want row.Reason, change func(*bpftest.Packet)) {
		f := w.at(a, name, dst, a.of(w.tasks[dst]), want, func(p *bpftest.Packet) {
			p.Src, p.SrcMAC = src, bpftest.Gateway
			if change != nil {
				change(p)
			}
		})
		f.program, f.meta.Ingress = "to_workload", 1
		list = append(list, f)
	}
	forwarded("the world to web", "web", a.world, row.ReasonNotPublic, nil)
	forwarded("the world to bare", "bare", a.world, row.ReasonNotPublic, service(bpftest.UDP, 53))
	forwarded("the world pings web", "web", a.world, row.ReasonNotPublic, a.echo)
	forwarded("the world to a public task, a port that is denied", "open", a.world, row.ReasonDenied, service(bpftest.TCP, 22))
	forwarded("the world to an address that the task has no more", "web", a.world, row.ReasonNoEndpoint, func(p *bpftest.Packet) { p.Dst = a.none })
	forwarded("the world, another task's link", "web", a.world, row.ReasonNoEndpoint, func(p *bpftest.Packet) { p.Dst = a.of(w.tasks["db"]) })
	return list
}

// links is what a task should not put on its link.
func links(w *world) (list []fault) {
	add := func(f fault) { list = append(list, f) }
	for _, a := range families {
		peer, own := a.of(w.tasks["web2"]), a.of(w.tasks["web"])
		at := func(name string, to netip.Addr, want row.Reason, change func(*bpftest.Packet)) {
			add(w.at(a, name, "web", to, want, change))
		}
		at("another MAC", peer, row.ReasonSpoofedMAC, func(p *bpftest.Packet) { p.SrcMAC = w.mac("db") })
		at("no MAC", peer, row.ReasonSpoofedMAC, func(p *bpftest.Packet) { p.SrcMAC = bpftest.MAC{} })
		at("as a neighbour", peer, row.ReasonSpoofedAddress, func(p *bpftest.Packet) { p.Src = a.of(w.tasks["db"]) })
		at("as the world", peer, row.ReasonSpoofedAddress, func(p *bpftest.Packet) { p.Src = a.world })
		at("as an address of another network", peer, row.ReasonSpoofedAddress, func(p *bpftest.Packet) { p.Src = a.other })
		at("a tunnel frame of its own", a.world, row.ReasonSpoofedTunnel, service(bpftest.UDP, 4789))
		at("to a multicast group", a.many, row.ReasonMulticast, service(bpftest.UDP, 5353))
		at("a header cut off", peer, row.ReasonMalformed, func(p *bpftest.Packet) { p.L4 = []byte{1, 2, 3} })
		at("a datagram longer than its packet", peer, row.ReasonMalformed, func(p *bpftest.Packet) {
			p.Proto, p.L4 = bpftest.UDP, []byte{0x9c, 0x40, 0, 80, 0xff}
		})
		at("ping cut off", peer, row.ReasonMalformed, func(p *bpftest.Packet) { p.Proto, p.L4 = a.icmp, []byte{a.ping, 0} })
		cut := w.at(a, "the IP packet is longer than the frame", "web", peer, row.ReasonMalformed, nil)
		cut.frame = cut.frame[:len(cut.frame)-6]
		add(cut)
		nobody := w.at(a, "a link of no task", "web", peer, row.ReasonUnknownLink, nil)
		nobody.meta.Ifindex = w.links["nobody"]
		add(nobody)
		toNobody := w.at(a, "to a link of no task", "web", own, row.ReasonUnknownLink, nil)
		toNobody.program, toNobody.meta = "to_workload", bpftest.Meta{Ifindex: w.links["nobody"], Ingress: 1}
		add(toNobody)
	}
	return append(list, oddLinks(w)...)
}

// oddLinks is what only one family has, or none.
func oddLinks(w *world) (list []fault) {
	v4, v6 := families[0], families[1]
	at := func(a family, name string, to netip.Addr, want row.Reason, change func(*bpftest.Packet)) {
		list = append(list, w.at(a, name, "web", to, want, change))
	}
	raw := func(name string, frame []byte, want row.Reason) {
		list = append(list, fault{name: name, program: "from_workload", meta: bpftest.Meta{Ifindex: w.links["web"]}, frame: frame, want: want})
	}
	web, db := w.tasks["web"], w.tasks["db"]
	at(v4, "to the broadcast address", addr("255.255.255.255"), row.ReasonMulticast, service(bpftest.UDP, 67))
	at(v4, "to 0.0.0.0", addr("0.0.0.0"), row.ReasonMalformed, nil)
	at(v4, "to 127.0.0.1", addr("127.0.0.1"), row.ReasonMalformed, nil)
	at(v6, "to ::1", addr("::1"), row.ReasonMalformed, nil)
	at(v6, "to ::", addr("::"), row.ReasonMalformed, nil)
	at(v4, "a header length below five words", web.Addr4, row.ReasonMalformed, nil)
	list[len(list)-1].frame[14] = 0x44
	vlan := w.packet(v4, "web", db.Addr4, func(p *bpftest.Packet) { p.Type = bpftest.TypeVLAN })
	raw("a VLAN tag", vlan, row.ReasonNotIP)
	raw("LLDP", w.packet(v4, "web", db.Addr4, func(p *bpftest.Packet) { p.Type = 0x88cc }), row.ReasonNotIP)
	arp := func(sender bpftest.MAC, addr netip.Addr) []byte {
		return bpftest.ARPPacket{SrcMAC: w.mac("web"), Operation: 1, SenderMAC: sender, SenderAddr: addr, TargetAddr: db.Addr4}.Bytes()
	}
	raw("ARP with another MAC inside", arp(w.mac("db"), web.Addr4), row.ReasonSpoofedMAC)
	raw("ARP as a neighbour", arp(w.mac("web"), w.tasks["web2"].Addr4), row.ReasonSpoofedAddress)
	raw("ARP cut off", arp(w.mac("web"), web.Addr4)[:34], row.ReasonMalformed)
	nd := func(kind uint8, src, target netip.Addr, ttl uint8) []byte {
		p := bpftest.Neighbour(kind, src, addr("fe80::1"), target, w.mac("web"))
		p.SrcMAC, p.TTL = w.mac("web"), ttl
		return p.Bytes()
	}
	raw("neighbour discovery as a neighbour", nd(135, db.Addr6, addr("fe80::1"), 255), row.ReasonSpoofedAddress)
	raw("neighbour discovery from afar", nd(135, web.Addr6, addr("fe80::1"), 64), row.ReasonMalformed)
	raw("neighbour discovery of a group", nd(135, web.Addr6, addr("ff02::1"), 255), row.ReasonMalformed)
	raw("a neighbour's address advertised", nd(136, web.Addr6, db.Addr6, 255), row.ReasonSpoofedAddress)
	return list
}

// places is about where an address leads.
func places(w *world) (list []fault) {
	for _, a := range families {
		at := func(name, from string, to netip.Addr, want row.Reason, change func(*bpftest.Packet)) {
			list = append(list, w.at(a, name, from, to, want, change))
		}
		at("to an address that no task here has", "web", a.none, row.ReasonNoEndpoint, nil)
		at("to a block that no node holds", "web", a.free, row.ReasonNoBlock, nil)
		at("to another network", "web", a.other, row.ReasonOtherNetwork, nil)
		at("from dev to a task of prod", "dev", a.of(w.tasks["web"]), row.ReasonOtherNetwork, nil)
		at("a VIP without backend", "web", a.vip, row.ReasonNoBackend, nil)
		vip := row.VIPKey{VNI: vniProd, Addr: row.AddrOf(a.vip), Port: row.Port(80), Proto: bpftest.TCP}
		if err := w.Maps["vips"].Put(vip, row.VIP{ID: 1}); err != nil {
			panic(err)
		}
		big := make([]byte, 1500)
		at("an ICMP error that is too big", "web", a.of(far[0]), row.ReasonTooBig, func(p *bpftest.Packet) {
			p.Proto, p.Payload = a.icmp, big
			if p.ICMPType = 3; a.icmp == bpftest.ICMPv6 {
				p.ICMPType = 1
			}
		})
		at("a later fragment that is too big", "web", a.of(far[0]), row.ReasonTooBig, func(p *bpftest.Packet) {
			p.Proto, p.Payload, p.Frag = bpftest.UDP, big, 185|bpftest.DontFragment
		})
		list = append(list, edge(w, a)...)
	}
	return list
}

// edge is what clients outside ask of VIPs.
func edge(w *world, a family) (list []fault) {
	public := addr("203.0.113.80")
	if a.icmp == bpftest.ICMPv6 {
		public = addr("2001:db8:80::1")
	}
	for _, n := range []uint16{0, 81} {
		key := row.EdgeVIPKey{Addr: row.AddrOf(public), Port: row.Port(n)}
		if n != 0 {
			key.Proto = bpftest.TCP
		}
		if err := w.Maps["edge_vips"].Put(key, row.EdgeVIP{}); err != nil {
			panic(err)
		}
	}
	at := func(name string, want row.Reason, change func(*bpftest.Packet)) {
		f := w.at(a, name, "web", public, want, func(p *bpftest.Packet) {
			p.Src = a.world
			if change != nil {
				change(p)
			}
		})
		f.program, f.meta = "edge", bpftest.Meta{}
		list = append(list, f)
	}
	at("at the edge, a port that no VIP has", row.ReasonNotServed, service(bpftest.TCP, 82))
	at("at the edge, a protocol that no VIP has", row.ReasonNotServed, service(bpftest.UDP, 81))
	at("at the edge, a VIP without backend", row.ReasonNoBackend, service(bpftest.TCP, 81))
	if a.icmp == bpftest.ICMPv6 {
		at("at the edge, an extension header", row.ReasonExtension, func(p *bpftest.Packet) {
			p.Extensions = []bpftest.Extension{bpftest.PadExtension(bpftest.DstOpts, 8)}
		})
	}
	return list
}

// nodes is what processes of nodes send: of this one by its own device, of another by tunnel.
func nodes(w *world) (list []fault) {
	pick := func(a family, four, six netip.Prefix) netip.Addr {
		if a.icmp == bpftest.ICMP {
			return four.Addr()
		}
		return six.Addr()
	}
	own4, own6 := overlay.NodeAddrs(1)
	far4, far6 := overlay.NodeAddrs(2)
	none4, none6 := overlay.NodeAddrs(77)
	big := make([]byte, 1500)
	for _, a := range families {
		own, other := pick(a, own4, own6), pick(a, far4, far6)
		add := func(name string, to netip.Addr, want row.Reason, change func(*bpftest.Packet)) {
			p := bpftest.Packet{
				SrcMAC: compile.HostMAC(), Src: own, Dst: to, Proto: bpftest.TCP, SPort: 40000, DPort: 80, Flags: bpftest.SYN, Frag: bpftest.DontFragment,
			}
			if change != nil {
				change(&p)
			}
			list = append(list, fault{
				name: a.name + " of this node: " + name, program: "from_node", meta: bpftest.Meta{Ifindex: hostLink}, frame: p.Bytes(), want: want,
			})
		}
		add("as the world, by way of it", a.of(far[0]), row.ReasonSpoofedAddress, func(p *bpftest.Packet) { p.Src = a.world })
		add("as one of its tasks", a.of(far[0]), row.ReasonSpoofedAddress, func(p *bpftest.Packet) { p.Src = a.of(w.tasks["web"]) })
		add("to another node", other, row.ReasonNoBlock, nil)
		add("to a node that there is none of", pick(a, none4, none6), row.ReasonNoBlock, nil)
		add("to a block that no node holds", a.free, row.ReasonNoBlock, nil)
		add("to an address that no task here has", a.none, row.ReasonNoEndpoint, nil)
		add("to a plain node, no rule", a.old, row.ReasonNotPublic, nil)
		add("a header cut off", a.of(far[0]), row.ReasonMalformed, func(p *bpftest.Packet) { p.L4 = []byte{1, 2, 3} })
		add("a later fragment that is too big", a.of(far[0]), row.ReasonTooBig, func(p *bpftest.Packet) {
			p.Proto, p.Payload, p.Frag = bpftest.UDP, big, 185|bpftest.DontFragment
		})
		add("a device of no node", a.of(far[0]), row.ReasonUnknownLink, nil)
		list[len(list)-1].meta.Ifindex = w.links["nobody"]
		inner := bpftest.Packet{Src: other, Dst: a.of(w.tasks["web"]), Proto: bpftest.TCP, SPort: 40000, DPort: 80, Flags: bpftest.SYN}
		u := bpftest.Tunnel{Outer: bpftest.Packet{Src: node2, Dst: node1, SPort: 50000, NoSum: true}, VNI: vniProd, Policy: row.IdentityOtherNode}
		list = append(list, fault{
			name: a.name + " of another node: to a task in groups, no rule", program: "from_underlay", frame: u.Wrap(inner.Bytes()), want: row.ReasonNotPublic,
		})
	}
	return append(list, fault{
		name: "ARP of this node", program: "from_node", meta: bpftest.Meta{Ifindex: hostLink}, want: row.ReasonNotIP,
		frame: bpftest.ARPPacket{Operation: 1, SenderAddr: own4.Addr(), TargetAddr: far[0].Addr4}.Bytes(),
	})
}

// plain is what comes from a host without Weft, and what is sent to it.
func plain(w *world) (list []fault) {
	for _, a := range families {
		from := func(name string, src, dst netip.Addr, want row.Reason, vni uint32, change func(*bpftest.Packet)) {
			p := bpftest.Packet{Src: src, Dst: dst, Proto: bpftest.TCP, SPort: 40000, DPort: 80, Flags: bpftest.SYN}
			if change != nil {
				change(&p)
			}
			list = append(list, fault{
				name: a.name + " from a plain node: " + name, program: "from_tunnel", frame: p.Bytes(), want: want,
				meta: bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: old, VNI: vni}},
			})
		}
		web, db := a.of(w.tasks["web"]), a.of(w.tasks["db"])
		from("to db, a port beside the rule's", a.old, db, row.ReasonNoCommonGroup, vniProd, service(bpftest.TCP, 81))
		from("to web, no rule", a.old, web, row.ReasonNoCommonGroup, vniProd, nil)
		from("another network than its own", a.old, db, row.ReasonWrongNetwork, vniDev, nil)
		from("as a task of another node", a.of(far[2]), db, row.ReasonSpoofedBlock, vniProd, nil)
		from("as the world", a.world, db, row.ReasonSpoofedBlock, vniProd, nil)
		from("to an address that no task has", a.old, a.none, row.ReasonNoEndpoint, vniProd, nil)
		list = append(list, w.at(a, "to a plain node, no rule", "web", a.old, row.ReasonNoCommonGroup, nil),
			w.at(a, "to a plain node, a port beside the rule's", "db", a.old, row.ReasonNoCommonGroup, service(bpftest.UDP, 98)))
	}
	return append(list, fault{
		name: "ARP of a plain node as another node's task", program: "from_tunnel", want: row.ReasonSpoofedBlock,
		frame: bpftest.ARPPacket{Operation: 1, SenderAddr: far[0].Addr4, TargetAddr: w.tasks["web"].Addr4}.Bytes(),
		meta:  bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: old, VNI: vniProd}},
	})
}

// tunnels is what comes from other nodes, and from what is none.
func tunnels(w *world) (list []fault) {
	for _, a := range families {
		frame := func(from overlay.Endpoint, to netip.Addr, change func(*bpftest.Packet)) []byte {
			p := bpftest.Packet{Src: a.of(from), Dst: to, Proto: bpftest.TCP, SPort: 40000, DPort: 80, Flags: bpftest.SYN}
			if change != nil {
				change(&p)
			}
			return p.Bytes()
		}
		wrap := func(name string, inner []byte, want row.Reason, change func(*bpftest.Tunnel)) {
			u := bpftest.Tunnel{Outer: bpftest.Packet{Src: node2, Dst: node1, SPort: 50000, NoSum: true}, VNI: vniProd, Policy: idWeb}
			if change != nil {
				change(&u)
			}
			list = append(list, fault{name: a.name + " by tunnel: " + name, program: "from_underlay", frame: u.Wrap(inner), want: want})
			if u.Outer.Src != node2 || u.Flags&0x77 != 0 || u.Outer.TOS != 0 {
				return // what only the outer headers tell
			}
			identity := u.Policy
			if u.Flags == 0x08 {
				identity = row.IdentityNone
			}
			list = append(list, fault{
				name: a.name + " by the VXLAN device: " + name, program: "from_tunnel", frame: inner, want: want,
				meta: bpftest.Meta{Tunnel: &bpftest.TunnelMeta{VTEP: u.Outer.Src, VNI: u.VNI, Identity: identity}},
			})
		}
		as := func(identity uint16) func(*bpftest.Tunnel) { return func(u *bpftest.Tunnel) { u.Policy = identity } }
		web, db := a.of(w.tasks["web"]), a.of(w.tasks["db"])
		rweb, rdb, rapi, rbare := far[0], far[1], far[2], far[3]
		wrap("web to db, a port beside the rule's", frame(rweb, db, nil), row.ReasonNoCommonGroup, nil)
		wrap("web to db, a port that is denied", frame(rweb, db, service(bpftest.TCP, 22)), row.ReasonDenied, nil)
		wrap("web to db, a port in audit", frame(rweb, db, service(bpftest.UDP, 53)), row.ReasonAudited, nil)
		wrap("api to db, a port beside the rule's", frame(rapi, db, service(bpftest.TCP, 81)), row.ReasonNoCommonGroup, as(idAPI))
		wrap("db to web, against the rule's direction", frame(rdb, web, nil), row.ReasonNoCommonGroup, as(idDB))
		wrap("bare to web", frame(rbare, web, nil), row.ReasonNoCommonGroup, as(row.IdentityUngrouped))
		wrap("groups that nobody knows any more", frame(rweb, web, nil), row.ReasonNoCommonGroup, as(idLost))
		wrap("a task that nobody knows", frame(overlay.Endpoint{Addr4: a.gone, Addr6: a.gone}, db, nil), row.ReasonNoCommonGroup, nil)
		wrap("a sender that names no groups", frame(rweb, web, nil), row.ReasonNoCommonGroup, func(u *bpftest.Tunnel) { u.Flags = 0x08 })
		wrap("a stale address", frame(rweb, a.none, nil), row.ReasonNoEndpoint, nil)
		wrap("the wrong network", frame(rweb, web, nil), row.ReasonNoEndpoint, func(u *bpftest.Tunnel) { u.VNI = vniDev })
		wrap("a network that nobody knows", frame(rweb, web, nil), row.ReasonNoEndpoint, func(u *bpftest.Tunnel) { u.VNI = 0xabcdef })
		wrap("multicast inside", frame(rweb, a.many, nil), row.ReasonMulticast, nil)
		wrap("from a multicast address", frame(overlay.Endpoint{Addr4: a.many, Addr6: a.many}, web, nil), row.ReasonMalformed, nil)
		wrap("cut off inside", frame(rweb, web, func(p *bpftest.Packet) { p.L4 = []byte{1} }), row.ReasonMalformed, nil)
		wrap("a later fragment before its first", frame(rweb, db, func(p *bpftest.Packet) { p.Proto, p.Frag, p.ID = bpftest.UDP, 185, 9 }),
			row.ReasonFragment, nil)
		wrap("from a host that is no node", frame(rweb, web, nil), row.ReasonUnknownVTEP, func(u *bpftest.Tunnel) { u.Outer.Src = stranger })
		wrap("flags that nobody knows", frame(rweb, web, nil), row.ReasonBadTunnel, func(u *bpftest.Tunnel) { u.Flags = 0x8a })
		wrap("no network named", frame(rweb, web, nil), row.ReasonBadTunnel, func(u *bpftest.Tunnel) { u.Flags = 0x81 })
		wrap("marked for congestion, what can't carry it", frame(rweb, a.of(w.tasks["web2"]), nil), row.ReasonBadTunnel,
			func(u *bpftest.Tunnel) { u.Outer.TOS = 3 })
	}
	return append(list, fault{
		name: "ARP by tunnel", program: "from_underlay", want: row.ReasonNotIP,
		frame: bpftest.Tunnel{Outer: bpftest.Packet{Src: node2, Dst: node1, NoSum: true}, VNI: vniProd, Policy: idWeb}.Wrap(
			bpftest.ARPPacket{Operation: 1, SenderAddr: far[0].Addr4, TargetAddr: w.tasks["web"].Addr4}.Bytes()),
	})
}
