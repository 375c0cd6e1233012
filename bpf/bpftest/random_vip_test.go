// SPDX-License-Identifier: Apache-2.0

package bpftest_test

import (
	"bytes"
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// VIPs in the random world: which there are and who is behind them changes under flows that go on, backends come and
// go, drain and are barred, and answers come of flows that tasks have opened.

// flow is what packets of a flow have in common.
type flow struct {
	src, dst     netip.Addr
	sport, dport uint16
	proto        uint8
}

var vipPorts = []uint16{80, 5432, 53, 4789}

// vips draws VIPs and their backends anew, share of 100. The id of a VIP stays, and so does what clients remember by it.
func (g *generator) vips(t *bpftest.Tables, share int) {
	id := uint32(0)
	for _, a := range []addrs{v4, v6} {
		for _, vip := range []netip.Addr{a.vip, a.vip2} {
			for _, port := range vipPorts {
				for _, proto := range []uint8{bpftest.TCP, bpftest.UDP} {
					id++
					if !g.chance(share) {
						continue
					}
					key := row.VIPKey{VNI: netA, Addr: row.AddrOf(vip), Port: row.Port(port), Proto: proto}
					delete(t.VIPs.VIPs, key)
					maps.DeleteFunc(t.Backends, func(k row.BackendKey, _ row.Backend) bool { return k.VIP == id })
					delete(t.Maglevs, id)
					maps.DeleteFunc(t.Barred, func(b uint32, _ bool) bool { return b>>8 == id })
					if g.chance(80) {
						t.VIPs.VIPs[key] = g.behind(t, a, id)
					}
				}
			}
		}
	}
}

// behind draws who is behind a VIP, as lib/compile writes it: near, others, draining.
func (g *generator) behind(t *bpftest.Tables, a addrs, id uint32) row.VIP {
	v := row.VIP{
		ID: id, Backends: uint16(g.IntN(6)), Weight: 1,
		Policy: pick[uint8](g, row.VIPRandom, row.VIPLeastLatency, row.VIPLeastConnections, row.VIPRoundRobin, row.VIPMaglev),
	}
	if g.chance(30) {
		v.Draining = uint16(g.IntN(int(v.Backends) + 1))
	}
	open := v.Backends - v.Draining
	if g.chance(30) {
		v.Near = uint16(g.IntN(int(open) + 1))
	}
	if g.chance(40) {
		v.Affinity = 3600
	}
	if g.chance(8) { // who is of the other family can't be asked, nor is remembered
		a, v.Affinity = map[bool]addrs{true: v6, false: v4}[a.web.Is4()], 0
	}
	if g.chance(30) {
		v.Flags = row.VIPWeighted
	}
	if v.Policy == row.VIPMaglev && open > 0 && g.chance(80) {
		var table row.Maglev
		for i := range table.Slots {
			table.Slots[i] = uint16(g.IntN(int(open) + i%2)) // now and then that of one who has left
		}
		t.Maglevs[id] = table
	}
	taken := make(map[netip.AddrPort]bool)
	for slot := range v.Backends {
		at := g.place(a)
		for taken[at] {
			at = g.place(a)
		}
		taken[at] = true
		b := row.Backend{Addr: row.AddrOf(at.Addr()), Port: row.Port(at.Port()), ID: id<<8 + uint32(slot) + 1}
		first, end := uint16(0), v.Near // of its class
		if slot >= v.Near {
			first, end = v.Near, open
		}
		if slot < open {
			b.Weight, b.Share, b.Other = uint16(1+g.IntN(5)), uint16(g.IntN(1<<16)), first+uint16(g.IntN(int(end-first)))
		}
		t.Backends[row.BackendKey{VIP: id, Slot: slot}] = b
		if g.chance(15) {
			t.Barred[b.ID] = true
		}
	}
	return v
}

// place is where a backend may be: everywhere, with the task itself.
func (g *generator) place(a addrs) netip.AddrPort {
	at := pick(g, a.web, a.web, a.peer, a.peer, a.db, a.open, a.none, a.remote, a.remote, a.plain, a.unheld, a.world, a.other, a.foreign)
	return netip.AddrPortFrom(at, pick[uint16](g, 80, 80, 22, 5432, 53, 4789))
}

// answers draws flows that tasks have opened to VIPs, of which the answers are met, and which links have asked.
func (g *generator) answers(t *bpftest.Tables) {
	for _, link := range []uint32{webLink, dbLink, peerLink, openLink} {
		t.Asks[link] = g.chance(60)
	}
	for range 12 {
		a := pick(g, v4, v6)
		from, vip := g.place(a), netip.AddrPortFrom(pick(g, a.vip, a.vip2), pick(g, vipPorts...))
		key := row.FlowKey{
			VNI: netA, Src: row.AddrOf(from.Addr()), Sport: row.Port(from.Port()), Proto: pick[uint8](g, bpftest.TCP, bpftest.UDP),
			Dst: row.AddrOf(pick(g, a.web, a.web, a.web, a.peer, a.peer, a.db, a.open)), Dport: row.Port(g.port()),
		}
		t.Translations[key] = row.Translation{
			To: row.PeerOf(vip), BackendID: g.anyBackend(t), First: 0x02000000,
			State: pick[uint8](g, row.TranslationAsked, row.TranslationAsked, row.TranslationAnswered, row.TranslationOver),
		}
	}
}

// anyBackend is the id of one, or 0.
func (g *generator) anyBackend(t *bpftest.Tables) uint32 {
	ids := []uint32{0}
	for _, b := range t.Backends {
		ids = append(ids, b.ID)
	}
	slices.Sort(ids)
	return pick(g, ids...)
}

// ordered returns the keys of translations in an order that is the same each time.
func ordered(t map[row.FlowKey]row.Translation) []row.FlowKey {
	return slices.SortedFunc(maps.Keys(t), func(a, b row.FlowKey) int {
		return cmp.Or(bytes.Compare(a.Src.Bytes[:], b.Src.Bytes[:]), bytes.Compare(a.Dst.Bytes[:], b.Dst.Bytes[:]),
			cmp.Compare(a.Sport, b.Sport), cmp.Compare(a.Dport, b.Dport), cmp.Compare(a.Proto, b.Proto))
	})
}

// evict forgets a translation here and there, as the table does where there is no room.
func (b *bench) evict(tb testing.TB, g *generator) {
	tb.Helper()
	for _, key := range ordered(b.Translations) {
		if !g.chance(10) {
			continue
		}
		if err := b.Maps["translations"].Delete(key); err != nil {
			tb.Fatal(err)
		}
		delete(b.Translations, key)
	}
}

// learn takes in what is translated: such packets come again, and others of the task that speak to the backend itself.
func (g *generator) learn(t *bpftest.Tables) {
	g.known = [2][]flow{}
	for _, key := range ordered(t.Translations) {
		f := flow{key.Src.Netip(), key.Dst.Netip(), row.Port(key.Sport), row.Port(key.Dport), key.Proto}
		if f.proto == bpftest.Fragment {
			f.proto = bpftest.UDP
		}
		to := t.Translations[key].To
		direct := f
		direct.dst, direct.dport = to.Addr.Netip(), row.Port(to.Port)
		family := 0
		if f.src.Is6() {
			family = 1
		}
		g.known[family] = append(g.known[family], f, direct)
	}
}

// again makes a packet one of a flow that is known.
func (g *generator) again(p *bpftest.Packet, a addrs) {
	family := 0
	if a.web.Is6() {
		family = 1
	}
	if len(g.known[family]) == 0 {
		return
	}
	f := pick(g, g.known[family]...)
	if f.dst == a.vip && g.chance(30) { // the same port for two VIPs, which may share a backend
		f.dst = a.vip2
	}
	p.Src, p.Dst, p.SPort, p.DPort, p.Proto = f.src, f.dst, f.sport, f.dport, f.proto
}
