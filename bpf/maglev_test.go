// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/bpf/bpftest"
	"weft/bpf/row"
)

// maglevRows is a VIP of that policy, its slots, and a table in which they take turns.
func maglevRows(id uint32, affinity uint16, list []backend) (row.VIP, []row.Backend, row.Maglev) {
	vip, slots := vipRows(id, list)
	vip.Policy, vip.Affinity = row.VIPMaglev, affinity
	var table row.Maglev
	for i := range table.Slots {
		table.Slots[i] = uint16(i % len(list))
	}
	return vip, slots, table
}

// TestMaglevLeadsClientsByAddressAndPort, per packet: by the address alone where clients stay, and past a backend that
// takes nothing to the next one of the table.
func TestMaglevLeadsClientsByAddressAndPort(t *testing.T) {
	anyKernel(t)
	const backends, clients = 3, 40
	each(func(v6 bool, proto uint8) {
		w := newWires(t, "workload")
		v := vipOf(v6)
		var list []backend
		for i := range uint16(backends) {
			list = append(list, backend{at(server.addr(v6), 8080+i).String(), 1})
		}
		write := func(affinity uint16) []row.Backend {
			vip, slots, table := maglevRows(77, affinity, list)
			for slot, b := range slots {
				w.put("backends", row.BackendKey{VIP: vip.ID, Slot: uint16(slot)}, b)
			}
			w.put("maglevs", vip.ID, table)
			w.put("vips", vipKey(v, proto), vip)
			return slots
		}
		first := uint16(30000)
		ask := func(want func(c netip.AddrPort) int) {
			w.t.Helper()
			for range clients {
				c := at(client.addr(v6), first)
				first++
				w.wantTo(server, w.from(client, packet(proto, c, v, "")), packet(proto, c, at(server.addr(v6), 8080+uint16(want(c))), ""))
			}
		}
		slots := write(0)
		w.known(slots)
		ask(func(c netip.AddrPort) int { return bpftest.MaglevSlot(c.Addr(), c.Port()) % backends })
		w.put("feedbacks", slots[1].ID, row.Feedback{Barred: math.MaxUint64})
		ask(func(c netip.AddrPort) int {
			at := bpftest.MaglevSlot(c.Addr(), c.Port())
			if at%backends == 1 {
				at = (at + 1) % row.MaglevSlots
			}
			return at % backends
		})
		w.known(slots)
		write(60)
		ask(func(c netip.AddrPort) int { return bpftest.MaglevSlot(c.Addr(), 0) % backends })
	})
}

// TestSocketsAreLedAsPacketsAre: the same clients reach the same backends when they connect.
func TestSocketsAreLedAsPacketsAre(t *testing.T) {
	const clients = 40
	b := newBed(t)
	b.do(b.tables.Spaces.Put(b.cookie, row.Space{VNI: bedVNI, Addr4: row.AddrOf(client4), Addr6: row.AddrOf(client6)}))
	for _, family := range []struct {
		network string
		vip     netip.AddrPort
		client  netip.Addr
		servers []string
	}{
		{"udp4", vip4, client4, []string{"10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"}},
		{"udp6", vip6, client6, []string{"[fd00::1]:8080", "[fd00::2]:8080", "[fd00::3]:8080"}},
	} {
		for _, s := range family.servers {
			b.echo(family.network, s)
		}
		write := func(affinity uint16) {
			vip, slots, table := maglevRows(77, affinity, one(family.servers...))
			for slot, s := range slots {
				b.do(b.tables.Backends.Put(row.BackendKey{VIP: vip.ID, Slot: uint16(slot)}, s))
			}
			b.do(b.tables.Maglevs.Put(vip.ID, table))
			b.do(b.tables.VIPs.Put(vipKey(family.vip, unix.IPPROTO_UDP), vip))
		}
		write(0)
		used := make(map[string]int)
		for i := range uint16(clients) {
			port := 30000 + i
			want := family.servers[bpftest.MaglevSlot(family.client, port)%len(family.servers)]
			if got := b.whoServes(family.network, port, family.vip); got != want {
				t.Fatalf("%s: port %d is led to %s, want %s", family.network, port, got, want)
			}
			used[b.whoServes(family.network, 0, family.vip)]++ // a socket without a port yet
		}
		if len(used) != len(family.servers) {
			t.Errorf("%s: sockets without a port are led to %v, want to all", family.network, used)
		}
		write(60)
		want := family.servers[bpftest.MaglevSlot(family.client, 0)%len(family.servers)]
		for i := range uint16(clients) {
			if got := b.whoServes(family.network, 40000+i, family.vip); got != want {
				t.Fatalf("%s: a client that stays is led to %s, want %s", family.network, got, want)
			}
		}
	}
}

// TestMaglevWithoutATableDraws: a VIP of more backends than a table has room for is served all the same.
func TestMaglevWithoutATableDraws(t *testing.T) {
	w := newWires(t, "workload")
	vip, slots, _ := maglevRows(77, 0, one(at(server.addr4, 8080).String()))
	w.put("backends", row.BackendKey{VIP: vip.ID}, slots[0])
	w.put("vips", vipKey(vip4, bpftest.TCP), vip)
	c, s := at(client.addr4, 40000), at(server.addr4, 8080)
	w.wantTo(server, w.from(client, packet(bpftest.TCP, c, vip4, "")), packet(bpftest.TCP, c, s, ""))
}

// echo answers datagrams with the address that they came to.
func (b *bed) echo(network, at string) {
	b.t.Helper()
	addr, err := net.ResolveUDPAddr(network, at)
	b.do(err)
	c, err := net.ListenUDP(network, addr)
	b.do(err)
	done := make(chan struct{})
	b.t.Cleanup(func() {
		_ = c.Close() // ends the loop below
		<-done
	})
	go func() {
		defer close(done)
		buffer := make([]byte, 16)
		for {
			_, from, err := c.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(at), from) // who asked waits, and fails then
		}
	}()
}

// whoServes connects from a port, 0 for any, and returns who answers.
func (b *bed) whoServes(network string, port uint16, vip netip.AddrPort) string {
	b.t.Helper()
	d := net.Dialer{}
	if port != 0 {
		d.LocalAddr = &net.UDPAddr{Port: int(port)}
	}
	c, err := d.DialContext(b.t.Context(), network, vip.String())
	b.do(err)
	defer func() { b.do(c.Close()) }()
	_, err = c.Write([]byte("who"))
	b.do(err)
	b.do(c.SetReadDeadline(time.Now().Add(patience)))
	buffer := make([]byte, 64)
	n, err := c.Read(buffer)
	b.do(err)
	return string(buffer[:n])
}
