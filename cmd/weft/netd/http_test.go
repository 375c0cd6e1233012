// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft/discovery"
	"weft/discovery/httpapi"
	"weft/lb"
)

// What dcos-net lists of a VIP (net.md B7): every backend that was declared, whatever speaks against it; behind a literal
// address those of its family (net-tests 4.3).
func TestVIPsAreListedAsByDcosNet(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	backend := func(task string, weight uint16, in bool, reason string, addrs ...netip.Addr) lb.BackendStatus {
		b := lb.Backend{Task: task, Node: "n1", Port: 8080, Weight: weight, Addrs: addrs}
		return lb.BackendStatus{Backend: b, In: in, Reason: reason}
	}
	both := []netip.Addr{addr("9.0.1.5"), addr("fd01:b::5")}
	entry := func(task, ip string, weight uint16, in bool, reason string) httpapi.Backend {
		return httpapi.Backend{IP: addr(ip), Port: 8080, Task: task, Node: "n1", Weight: weight, In: in, Reason: reason}
	}
	named := lb.Key{Network: "prod", Name: "web.marathon", Port: 80, Protocol: lb.TCP}
	literal := func(a string) lb.Key {
		return lb.Key{Network: "prod", Addr: addr(a), Port: 80, Protocol: lb.UDP}
	}
	got := listed([]lb.VIPStatus{
		{Key: named, DNS: lb.DNSName(named.Name), Backends: []lb.BackendStatus{
			backend("two", 1, true, "serving", both...), backend("ill", 1, false, "unhealthy", both[0]), backend("zero", 0, false, "draining", both[0]),
			backend("far", 1, false, "node n1 is down", both[0]),
		}},
		{Key: literal("1.2.3.4"), Backends: []lb.BackendStatus{backend("two", 1, true, "serving", both...)}},
		{Key: literal("fd01:c::7"), Backends: []lb.BackendStatus{backend("two", 1, true, "serving", both...)}},
		{Key: named, DNS: lb.DNSName(named.Name)},
	})
	want := []httpapi.VIP{
		{VIP: "web.marathon.l4lb.thisdcos.directory:80", Protocol: "tcp", Network: "prod", Backends: []httpapi.Backend{
			entry("two", "9.0.1.5", 1, true, "serving"), entry("two", "fd01:b::5", 1, true, "serving"), entry("ill", "9.0.1.5", 1, false, "unhealthy"),
			entry("zero", "9.0.1.5", 0, false, "draining"), entry("far", "9.0.1.5", 1, false, "node n1 is down"),
		}},
		{VIP: "1.2.3.4:80", Protocol: "udp", Network: "prod", Backends: []httpapi.Backend{entry("two", "9.0.1.5", 1, true, "serving")}},
		{VIP: "[fd01:c::7]:80", Protocol: "udp", Network: "prod", Backends: []httpapi.Backend{entry("two", "fd01:b::5", 1, true, "serving")}},
	}
	if diff := cmp.Diff(got[:3], want, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("VIPs (got -, want +):\n%s", diff)
	}
	if text, err := json.Marshal(got[3]); err != nil || !strings.Contains(string(text), `"backend":[]`) {
		t.Errorf("a VIP without a backend: %s %v, want an empty list", text, err)
	}
}

// A client of dcos-net looks for one entry of a VIP, with all that is behind it.
func TestVIPsOfHostAreListedWithTheSameOfNetworks(t *testing.T) {
	t.Parallel()
	vip := func(name, protocol, network string, tasks ...string) httpapi.VIP {
		v := httpapi.VIP{VIP: name, Protocol: protocol, Network: network}
		for _, task := range tasks {
			v.Backends = append(v.Backends, httpapi.Backend{Task: task})
		}
		return v
	}
	six := vip("six:80", "tcp", discovery.HostNetwork, "h3")
	six.Addrs = []netip.Addr{netip.MustParseAddr("11.0.0.1"), netip.MustParseAddr("fd01:c::1")}
	four := vip("six:80", "tcp", "prod", "p4")
	four.Addrs = six.Addrs[:1:1]
	both := vip("six:80", "tcp", "prod", "p4", "h3")
	both.Addrs = six.Addrs
	got := foldHost([]httpapi.VIP{
		vip("web:80", "tcp", discovery.HostNetwork, "h1"), vip("web:80", "tcp", "dev", "d1"), vip("web:80", "tcp", "prod", "p1", "p2"),
		vip("web:80", "udp", discovery.HostNetwork, "h1"), vip("db:1", "tcp", "prod", "p3"), vip("ssh:22", "tcp", discovery.HostNetwork, "h2"),
		four, six,
	})
	want := []httpapi.VIP{
		vip("web:80", "tcp", "dev", "d1", "h1"), vip("web:80", "tcp", "prod", "p1", "p2", "h1"),
		vip("web:80", "udp", discovery.HostNetwork, "h1"), vip("db:1", "tcp", "prod", "p3"), vip("ssh:22", "tcp", discovery.HostNetwork, "h2"),
		both,
	}
	if diff := cmp.Diff(got, want, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("VIPs (got -, want +):\n%s", diff)
	}
}
