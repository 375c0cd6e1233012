// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/servicetest"
)

func inHost(id string, owner int) overlay.Attachment {
	return overlay.Attachment{
		ID: id, Task: id, Name: id, Network: discovery.HostNetwork, NetNS: "/proc/thread-self/ns/net", OwnerPID: owner, OwnerStart: 1,
	}
}

func (n *node) ids(t *testing.T) (ids []string) {
	t.Helper()
	list, err := n.Endpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		ids = append(ids, e.ID)
	}
	return ids
}

func TestTasksInTheNodesNetworkLiveByTheirOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, inHost("ends", 1))
		stays := n.attach(t, inHost("stays", 2))
		n.attach(t, inHost("ends-later", 3))
		web := n.attach(t, task("web", "prod"))
		synctest.Wait()
		if w, err := n.kernel.tables.workloads.All(); err != nil || len(w) != 1 {
			t.Errorf("got workloads %v, %v, want that of web alone", w, err)
		}
		if _, there, err := n.kernel.tables.endpoints.Get(row.EndpointKey{Addr: row.AddrOf(vtep)}); there || err != nil {
			t.Errorf("the node's address is an endpoint: %v", err)
		}
		close(n.owners.of(1))
		synctest.Wait()
		if diff := cmp.Diff([]string{"ends-later", "stays", "web"}, n.ids(t)); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		n.stop()
		close(n.owners.of(3)) // while there is no daemon
		n.boot(t, options{silent: true})
		synctest.Wait()
		list, err := n.Endpoints(t.Context())
		if diff := cmp.Diff([]overlay.Endpoint{stays, web}, list, servicetest.Compare()); diff != "" || err != nil {
			t.Errorf("%v -before +after\n%s", err, diff)
		}
		if err := n.Detach(t.Context(), "stays"); err != nil {
			t.Error(err)
		}
		n.check(t, "web")
	})
}

func TestTasksInTheNodesNetworkMoveWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, inHost("web", 1))
		n.stop()
		n.underlay.Addr4, n.underlay.Addr6 = netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("fd09::7")
		n.boot(t, options{})
		synctest.Wait()
		list, err := n.Endpoints(t.Context())
		if err != nil || len(list) != 1 || list[0].Addr4 != n.underlay.Addr4 || list[0].Addr6 != n.underlay.Addr6 {
			t.Errorf("got %+v, %v, want the node's new addresses", list, err)
		}
		n.stop()
		n.underlay.Addr6 = netip.Addr{}
		n.boot(t, options{})
		if list, err := n.Endpoints(t.Context()); err != nil || len(list) != 1 || len(list[0].Addrs()) != 1 {
			t.Errorf("got %+v, %v, want one address", list, err)
		}
	})
}

func TestAnotherNamespaceIsNotTheNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.ownNetNS = func(string) (bool, error) { return false, nil }
		n.stop()
		n.boot(t, options{})
		a := inHost("web", 1)
		if _, err := n.Attach(t.Context(), a); !errors.Is(err, overlay.ErrInvalid) || !strings.Contains(err.Error(), "netns") {
			t.Errorf("got %v, want ErrInvalid that names netns", err)
		}
		if got := n.ids(t); len(got) > 0 {
			t.Errorf("got %v, want none", got)
		}
	})
}
