// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"weft/overlay"
)

func published(id string, ports ...overlay.PortMapping) overlay.Attachment {
	a := task(id, "prod")
	a.Ports = ports
	a.OwnerPID, a.OwnerStart = 100, 1
	return a
}

// openings returns how many ports are open to the world, lead to tasks, and are held.
func (n *node) openings(t *testing.T) [3]int {
	t.Helper()
	synctest.Wait()
	rows, err := n.kernel.tables.openings.All()
	if err != nil {
		t.Error(err)
	}
	n.kernel.mu.Lock()
	defer n.kernel.mu.Unlock()
	return [3]int{len(rows), len(n.kernel.ports), len(n.kernel.held)}
}

func TestPortsComeAndGoWithTheTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, published("web-1", overlay.PortMapping{HostPort: 8080, Port: 80}))
		if got := n.openings(t); got != [3]int{2, 2, 2} { // two families
			t.Errorf("attached: got %v", got)
		}
		_, err := n.Attach(t.Context(), published("web-2", overlay.PortMapping{HostPort: 8080, Port: 81}))
		if !errors.Is(err, overlay.ErrConflict) || !strings.Contains(err.Error(), "port 8080/tcp of this node leads to task web-1 already") {
			t.Errorf("mapped twice: got %v", err)
		}
		n.attach(t, published("web-3", overlay.PortMapping{HostPort: 8080, Port: 80, Protocol: "udp"}))
		if got := n.openings(t); got != [3]int{4, 4, 4} {
			t.Errorf("both protocols: got %v", got)
		}
		for _, id := range []string{"web-1", "web-3"} {
			if err := n.Detach(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
		if got := n.openings(t); got != [3]int{} {
			t.Errorf("detached: got %v, want nothing", got)
		}
		n.attach(t, published("web-2", overlay.PortMapping{HostPort: 8080, Port: 81}))
	})
}

// A runtime without an owner process holds the ports itself.
func TestPortsOfACNIRuntimeAreItsToHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		a := published("web-1", overlay.PortMapping{HostPort: 8080, Port: 80})
		a.OwnerPID, a.OwnerStart = 0, 0
		n.attach(t, a)
		if got := n.openings(t); got != [3]int{2, 2, 0} {
			t.Errorf("got %v, want the ports open and not held", got)
		}
	})
}

func TestPortInUseLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.kernel.refuse(func(name string, after bool) error {
			if name == "hold" && !after {
				return errRefused
			}
			return nil
		})
		_, err := n.Attach(t.Context(), published("web-1", overlay.PortMapping{HostPort: 8080, Port: 80}))
		if !errors.Is(err, errRefused) {
			t.Errorf("got %v", err)
		}
		n.kernel.refuse(nil)
		if got := n.openings(t); got != [3]int{} {
			t.Errorf("got %v, want nothing", got)
		}
		n.check(t)
	})
}

func TestHostIPNeedsTheFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		a := published("web-1", overlay.PortMapping{HostIP: netip.MustParseAddr("fd77::1"), HostPort: 8080, Port: 80})
		a.Network = "dev" // IPv4 only
		if _, err := n.Attach(t.Context(), a); !errors.Is(err, overlay.ErrInvalid) || !strings.Contains(err.Error(), "no address of host_ip's family") {
			t.Errorf("got %v", err)
		}
	})
}

func TestPortsOutliveTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := start(t, options{})
		n.attach(t, published("web-1", overlay.PortMapping{HostPort: 8080, Port: 80}))
		n.stop()
		n.boot(t, options{silent: true})
		if got := n.openings(t); got != [3]int{2, 2, 2} {
			t.Errorf("got %v", got)
		}
	})
}
