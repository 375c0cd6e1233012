// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/row"
	"weft/discovery"
	"weft/lb"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func web() lb.Key { return lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP} }

func pin() lb.Pin {
	return lb.Pin{Name: "web.weft", Addr4: addr("11.1.2.3"), Addr6: addr("fd01:c::123")}
}

func backend(key lb.Key, node, task string, addrs ...string) lb.Backend {
	b := lb.Backend{VIP: key, Task: task, Node: discovery.NodeID(node), Port: 8080, Weight: 1}
	for _, a := range addrs {
		b.Addrs = append(b.Addrs, addr(a))
	}
	return b
}

func facts(backends ...lb.Backend) Facts {
	return Facts{Networks: map[string]uint32{"prod": 7, "dev": 8}, Pins: []lb.Pin{pin()}, Backends: backends}
}

func key(vni uint32, a string, port uint16, proto uint8) row.VIPKey {
	return row.VIPKey{VNI: vni, Addr: row.AddrOf(addr(a)), Port: row.Port(port), Proto: proto}
}

// peers returns the backends of one row by slot.
func peers(t *testing.T, r Rows, k row.VIPKey) []string {
	t.Helper()
	vip, ok := r.VIPs[k]
	if !ok {
		t.Fatalf("no VIP %v:%d of %d", k.Addr.Netip(), row.Port(k.Port), k.VNI)
	}
	got := make([]string, 0, vip.Backends)
	for slot := range vip.Backends {
		b, ok := r.Backends[row.BackendKey{VIP: vip.ID, Slot: slot}]
		if !ok {
			t.Fatalf("slot %d of %v is empty", slot, k.Addr.Netip())
		}
		got = append(got, netip.AddrPortFrom(b.Addr.Netip(), row.Port(b.Port)).String())
	}
	return got
}

func reasons(status []lb.VIPStatus) map[string]string {
	got := make(map[string]string)
	for _, v := range status {
		for _, b := range v.Backends {
			in := "out: "
			if b.In {
				in = "in: "
			}
			got[b.Task] = in + b.Reason
		}
	}
	return got
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestEachAddressHasTheBackendsOfItsFamily(t *testing.T) {
	t.Parallel()
	r, status := Compile(facts(
		backend(web(), "n1", "a", "9.0.0.1", "fd01:b::1"),
		backend(web(), "n2", "b", "9.0.1.1"),
	), Rows{})
	equal(t, "v4", peers(t, r, key(7, "11.1.2.3", 80, 6)), []string{"9.0.0.1:8080", "9.0.1.1:8080"})
	equal(t, "v6", peers(t, r, key(7, "fd01:c::123", 80, 6)), []string{"[fd01:b::1]:8080"})
	if r = inNetworks(t, r); len(r.VIPs) != 2 || len(r.Backends) != 3 {
		t.Errorf("%d VIPs and %d backends, want 2 and 3", len(r.VIPs), len(r.Backends))
	}
	equal(t, "reasons", reasons(status), map[string]string{"a": "in: serving", "b": "in: serving"})
	equal(t, "addresses", status[0].Addrs, []netip.Addr{addr("11.1.2.3"), addr("fd01:c::123")})
	equal(t, "name", status[0].DNS, "web.weft.l4lb.thisdcos.directory")
}

func TestAFamilyWithoutBackendsRefusesAndIsNotNamed(t *testing.T) {
	t.Parallel()
	r, status := Compile(facts(backend(web(), "n1", "a", "9.0.0.1")), Rows{})
	equal(t, "v6", peers(t, r, key(7, "fd01:c::123", 80, 6)), []string{})
	equal(t, "addresses", status[0].Addrs, []netip.Addr{addr("11.1.2.3")})
}

func TestNetworksAndProtocolsHaveTablesOfTheirOwn(t *testing.T) {
	t.Parallel()
	dev, udp := web(), web()
	dev.Network, udp.Protocol = "dev", lb.UDP
	r, _ := Compile(facts(
		backend(web(), "n1", "a", "9.0.0.1"),
		backend(dev, "n1", "b", "10.0.0.1"),
		backend(udp, "n1", "c", "9.0.0.3"),
	), Rows{})
	equal(t, "prod", peers(t, r, key(7, "11.1.2.3", 80, 6)), []string{"9.0.0.1:8080"})
	equal(t, "dev", peers(t, r, key(8, "11.1.2.3", 80, 6)), []string{"10.0.0.1:8080"})
	equal(t, "udp", peers(t, r, key(7, "11.1.2.3", 80, 17)), []string{"9.0.0.3:8080"})
}

func TestBackendsThatAreOutSayWhy(t *testing.T) {
	t.Parallel()
	draining := backend(web(), "n1", "draining", "9.0.0.2")
	draining.Weight = 0
	unpinned := backend(lb.Key{Network: "prod", Name: "new.weft", Port: 80, Protocol: lb.TCP}, "n1", "unpinned", "9.0.0.4")
	lost := backend(lb.Key{Network: "gone", Name: "web.weft", Port: 80, Protocol: lb.TCP}, "n1", "lost", "9.0.0.5")
	literal := lb.Key{Network: "prod", Addr: addr("fd01:c::5"), Port: 80, Protocol: lb.TCP}
	f := facts(
		backend(web(), "n1", "good", "9.0.0.1"), draining, unpinned, lost,
		backend(web(), "n2", "dead", "9.0.1.1"),
		backend(literal, "n1", "family", "9.0.0.6"),
	)
	f.Down = map[discovery.NodeID]string{"n2": "is down"}
	r, status := Compile(f, Rows{})
	equal(t, "reasons", reasons(status), map[string]string{
		"good":     "in: serving",
		"draining": "out: draining",
		"dead":     "out: node n2 is down",
		"unpinned": "out: waiting for a master to give new.weft an address",
		"lost":     "out: network gone is not known",
		"family":   "out: has no address of the VIP's family",
	})
	equal(t, "rows", peers(t, r, key(7, "11.1.2.3", 80, 6)), []string{"9.0.0.1:8080", "9.0.0.2:8080"})
	if n := r.VIPs[key(7, "11.1.2.3", 80, 6)].Draining; n != 1 {
		t.Errorf("%d drain, want 1", n)
	}
	equal(t, "literal", peers(t, r, key(7, "fd01:c::5", 80, 6)), []string{})
}

func TestDeadNodesServeWhenAllAreDead(t *testing.T) {
	t.Parallel()
	draining := backend(web(), "n3", "c", "9.0.2.1")
	draining.Weight = 0
	f := facts(backend(web(), "n1", "a", "9.0.0.1"), backend(web(), "n2", "b", "9.0.1.1"), draining)
	f.Down = map[discovery.NodeID]string{"n1": "is down", "n2": "is down"}
	r, status := Compile(f, Rows{})
	equal(t, "rows", peers(t, r, key(7, "11.1.2.3", 80, 6)), []string{"9.0.0.1:8080", "9.0.1.1:8080", "9.0.2.1:8080"})
	equal(t, "reasons", reasons(status), map[string]string{
		"a": "in: node n1 is down, kept because no other backend is up",
		"b": "in: node n2 is down, kept because no other backend is up",
		"c": "out: draining",
	})
}

func TestAVIPStaysAfterItsLastBackend(t *testing.T) {
	t.Parallel()
	literal := lb.Key{Network: "prod", Addr: addr("198.51.100.9"), Port: 53, Protocol: lb.UDP}
	first, _ := Compile(facts(backend(web(), "n1", "a", "9.0.0.1"), backend(literal, "n1", "a", "9.0.0.1")), Rows{})
	id := first.VIPs[key(7, "11.1.2.3", 80, 6)].ID
	f := facts()
	second, status := Compile(f, first)
	equal(t, "rows", inNetworks(t, second).VIPs, map[row.VIPKey]row.VIP{
		key(7, "11.1.2.3", 80, 6):    {ID: id, Weight: 1, Policy: row.VIPLeastLatency},
		key(7, "fd01:c::123", 80, 6): {ID: first.VIPs[key(7, "fd01:c::123", 80, 6)].ID, Weight: 1, Policy: row.VIPLeastLatency},
	})
	if len(second.Backends) != 0 || len(status) != 0 {
		t.Errorf("%v %v, want neither backends nor status", second.Backends, status)
	}
	f.Pins = nil
	if third, _ := Compile(f, second); len(third.VIPs) != 0 {
		t.Errorf("%v, want no VIP once the pin is gone", third.VIPs)
	}
	f = facts()
	delete(f.Networks, "prod")
	if third, _ := Compile(f, second); len(third.VIPs) != 0 {
		t.Errorf("%v, want no VIP once the network is gone", third.VIPs)
	}
}

func TestALiteralAndAPinAtOneAddressAreOneRow(t *testing.T) {
	t.Parallel()
	literal := lb.Key{Network: "prod", Addr: addr("11.1.2.3"), Port: 80, Protocol: lb.TCP}
	r, _ := Compile(facts(backend(web(), "n1", "a", "9.0.0.1"), backend(literal, "n1", "b", "9.0.0.2")), Rows{})
	equal(t, "rows", peers(t, r, key(7, "11.1.2.3", 80, 6)), []string{"9.0.0.1:8080", "9.0.0.2:8080"})
}

func TestHealthDecidesUntilNobodyIsFit(t *testing.T) {
	t.Parallel()
	of := func(task string, h lb.Health, last byte) lb.Backend {
		b := backend(web(), "n1", task, netip.AddrFrom4([4]byte{9, 0, 0, last}).String())
		b.Health = h
		return b
	}
	sick := of("sick", lb.Unhealthy, 2)
	sick.Detail = "tcp 9.0.0.2:8080: connection refused"
	fresh, ending := of("fresh", lb.Unknown, 3), of("ending", lb.Healthy, 4)
	ending.Draining = true
	r, status := Compile(facts(of("good", lb.Healthy, 1), sick, fresh, ending, of("plain", lb.Unchecked, 5)), Rows{})
	equal(t, "reasons", reasons(status), map[string]string{
		"good":   "in: serving, healthy",
		"plain":  "in: serving",
		"sick":   "out: unhealthy: tcp 9.0.0.2:8080: connection refused",
		"fresh":  "out: no check succeeded yet",
		"ending": "out: draining: its task ends",
	})
	vip := r.VIPs[key(7, "11.1.2.3", 80, 6)]
	if vip.Backends != 5 || vip.Draining != 3 {
		t.Errorf("%d backends, %d of them draining; want 5 and 3: what is under way goes on", vip.Backends, vip.Draining)
	}
	_, status = Compile(facts(sick, fresh, ending), r)
	equal(t, "reasons", reasons(status), map[string]string{
		"sick":   "in: unhealthy: tcp 9.0.0.2:8080: connection refused, kept because no other backend is up",
		"fresh":  "in: no check succeeded yet, kept because no other backend is up",
		"ending": "out: draining: its task ends",
	})
}

// As in DC/OS: weight 0 also for the last one whose health speaks against it. Nodes that are down are another matter.
func TestHealthMayDecideAboutTheLastToo(t *testing.T) {
	t.Parallel()
	sick, fresh, lost := backend(web(), "n1", "sick", "9.0.0.1"), backend(web(), "n1", "fresh", "9.0.0.2"), backend(web(), "n2", "lost", "9.0.1.1")
	sick.Health, fresh.Health = lb.Unhealthy, lb.Unknown
	f := facts(sick, fresh)
	f.RefuseUnhealthy = true
	r, status := Compile(f, Rows{})
	equal(t, "reasons", reasons(status), map[string]string{"sick": "out: unhealthy: its checks fail", "fresh": "out: no check succeeded yet"})
	if vip := r.VIPs[key(7, "11.1.2.3", 80, 6)]; vip.Backends != 2 || vip.Draining != 2 {
		t.Errorf("%d backends, %d of them draining; want both to drain", vip.Backends, vip.Draining)
	}
	equal(t, "addresses", status[0].Addrs, []netip.Addr{addr("11.1.2.3")})
	f.Backends, f.Down = append(f.Backends, lost), map[discovery.NodeID]string{"n2": "is down"}
	_, status = Compile(f, r)
	equal(t, "reasons", reasons(status)["lost"], "in: node n2 is down, kept because no other backend is up")
}

func TestOneBackendBehindTwoVIPs(t *testing.T) {
	t.Parallel()
	literal := lb.Key{Network: "prod", Addr: addr("198.51.100.9"), Port: 53, Protocol: lb.TCP}
	r, _ := Compile(facts(backend(web(), "n1", "a", "9.0.0.1"), backend(literal, "n1", "a", "9.0.0.1")), Rows{})
	for _, k := range []row.VIPKey{key(7, "11.1.2.3", 80, 6), key(7, "198.51.100.9", 53, 6)} {
		equal(t, "rows", peers(t, r, k), []string{"9.0.0.1:8080"})
	}
	ids := make(map[uint32]bool)
	for _, b := range r.Backends {
		ids[b.ID] = true
	}
	if len(ids) != 2 {
		t.Errorf("%d ids, want 2: what one VIP's connections come to is not the other's", len(ids))
	}
}

func TestTwoTasksAtOneAddressAreOneBackend(t *testing.T) {
	t.Parallel()
	heavy := backend(web(), "n1", "b", "9.0.0.1")
	heavy.Weight = 5
	r, _ := Compile(facts(backend(web(), "n1", "a", "9.0.0.1"), heavy), Rows{})
	k := key(7, "11.1.2.3", 80, 6)
	equal(t, "rows", peers(t, r, k), []string{"9.0.0.1:8080"})
	if got := r.Backends[row.BackendKey{VIP: r.VIPs[k].ID}].Weight; got != 5 {
		t.Errorf("weight %d, want the greater: 5", got)
	}
}

func TestMoreBackendsThanAVIPCanCount(t *testing.T) {
	t.Parallel()
	backends := make([]lb.Backend, maxBackends+1)
	for i := range backends {
		backends[i] = lb.Backend{VIP: web(), Task: fmt.Sprintf("t%05d", i), Node: "n1", Addrs: []netip.Addr{addr("9.0.0.1")}, Port: uint16(i), Weight: 1}
	}
	backends[0].Addrs = []netip.Addr{addr("9.0.0.2")} // port 0 is the same as port 65536 would be
	r, status := Compile(facts(backends...), Rows{})
	if n := r.VIPs[key(7, "11.1.2.3", 80, 6)].Backends; n != maxBackends {
		t.Errorf("%d backends, want %d", n, maxBackends)
	}
	out := 0
	for _, b := range status[0].Backends {
		if !b.In {
			out++
			equal(t, "reason", b.Reason, "the VIP has 65535 backends, more are not served")
		}
	}
	if out != 1 {
		t.Errorf("%d are out, want 1", out)
	}
}

func TestAllWeightsZeroRefuseAndKeepTheName(t *testing.T) {
	t.Parallel()
	idle := backend(web(), "n1", "a", "9.0.0.1")
	idle.Weight = 0
	r, status := Compile(facts(idle), Rows{})
	vip := r.VIPs[key(7, "11.1.2.3", 80, 6)]
	if vip.Backends != 1 || vip.Draining != 1 {
		t.Errorf("%d backends, %d of them draining; want one that drains", vip.Backends, vip.Draining)
	}
	equal(t, "reasons", reasons(status), map[string]string{"a": "out: draining"})
	equal(t, "addresses", status[0].Addrs, []netip.Addr{addr("11.1.2.3")})
}

// A node that went and came back: its backend is a newcomer, the other one stays where it was.
func TestANodeThatComesBackStartsSlowly(t *testing.T) {
	t.Parallel()
	f := facts(backend(web(), "n1", "a", "9.0.0.1"), backend(web(), "n2", "b", "9.0.1.1"))
	f.Now = 50
	before, _ := Compile(f, Rows{})
	f.Down = map[discovery.NodeID]string{"n2": "is down"}
	during, _ := Compile(f, before)
	equal(t, "while it is down", peers(t, during, key(7, "11.1.2.3", 80, 6)), []string{"9.0.0.1:8080"})
	f.Down, f.Now = nil, 90
	after, status := Compile(f, during)
	vip := after.VIPs[key(7, "11.1.2.3", 80, 6)].ID
	first, second := after.Backends[row.BackendKey{VIP: vip}], after.Backends[row.BackendKey{VIP: vip, Slot: 1}]
	if first != before.Backends[row.BackendKey{VIP: vip}] || first.Since != 0 {
		t.Errorf("the one that stayed: %+v, want it as it was", first)
	}
	if second.Since != 90 || second.ID == first.ID {
		t.Errorf("the one that came back: %+v, want it a newcomer of second 90", second)
	}
	equal(t, "reasons", reasons(status), map[string]string{"a": "in: serving", "b": "in: serving"})
}

// A backend that was unhealthy: it keeps its id, by which flows and feedback know it, and starts slowly.
func TestABackendThatIsWellAgainStartsSlowly(t *testing.T) {
	t.Parallel()
	sick := backend(web(), "n2", "b", "9.0.1.1")
	f := facts(backend(web(), "n1", "a", "9.0.0.1"), sick)
	f.Now = 50
	before, _ := Compile(f, Rows{})
	f.Backends[1].Health = lb.Unhealthy
	during, _ := Compile(f, before)
	f.Backends[1].Health, f.Now = lb.Healthy, 90
	after, _ := Compile(f, during)
	slot := row.BackendKey{VIP: after.VIPs[key(7, "11.1.2.3", 80, 6)].ID, Slot: 1}
	want := before.Backends[slot]
	want.Since = 90
	if got := after.Backends[slot]; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestPreferredBackendsComeFirst(t *testing.T) {
	t.Parallel()
	for prefer, want := range map[lb.Preference]uint16{lb.Anywhere: 0, lb.SameNode: 1, lb.SameZone: 2} {
		var backends []lb.Backend
		for i, node := range []string{"n3", "n2", "n1"} {
			b := backend(web(), node, node, netip.AddrFrom4([4]byte{9, 0, byte(i), 1}).String())
			b.Prefer = prefer
			backends = append(backends, b)
		}
		f := facts(backends...)
		f.Self, f.Zones = "n1", map[discovery.NodeID]string{"n1": "east", "n2": "east", "n3": "west"}
		r, _ := Compile(f, Rows{})
		if got := r.VIPs[key(7, "11.1.2.3", 80, 6)].Near; got != want {
			t.Errorf("prefer %q: %d near, want %d", prefer, got, want)
		}
		if prefer == lb.SameNode {
			equal(t, "slots", peers(t, r, key(7, "11.1.2.3", 80, 6))[0], "9.0.2.1:8080")
		}
	}
}
