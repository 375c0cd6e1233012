// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft/discovery"
	"weft/discovery/httpapi"
)

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
