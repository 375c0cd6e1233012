// SPDX-License-Identifier: Apache-2.0

package compat_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/control"
	"weft/control/compat"
	"weft/discovery"
	"weft/overlay"
)

// cluster is a control.Service that holds DC/OS' networks and three agents.
type cluster struct {
	control.Service // nothing else is asked of it

	nodes   []control.Node
	blocks  []overlay.Block
	err     error
	removed []discovery.NodeID
}

func newCluster() *cluster {
	c := &cluster{}
	for i := range 3 {
		id := discovery.NodeID(fmt.Sprint("h", i+1))
		c.nodes = append(c.nodes, control.Node{
			Node: discovery.Node{ID: id, MTU: []int{1500, 9000, 0}[i]}, Alive: i == 0, Admitted: true, VTEP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}),
		})
	}
	block := func(node discovery.NodeID, prefix string) {
		c.blocks = append(c.blocks, overlay.Block{Node: node, Prefix: netip.MustParsePrefix(prefix)})
	}
	block("h1", "9.0.0.0/24")
	block("h1", "9.0.2.0/24") // a second one: the first counts
	block("h2", "9.0.1.0/24")
	block("h1", "fd01:b::/80")
	return c
}

func (c *cluster) Networks(context.Context, string) ([]control.Network, error) {
	four, six := slices.Clone(c.blocks), slices.Clone(c.blocks)
	is6 := func(b overlay.Block) bool { return b.Prefix.Addr().Is6() }
	return []control.Network{
		{Network: overlay.Network{Name: "dcos6", VNI: 1025, Subnet6: netip.MustParsePrefix("fd01:b::/64"), Block6: 80}, Blocks: slices.DeleteFunc(six, func(b overlay.Block) bool { return !is6(b) })},
		{Network: overlay.Network{Name: "dcos", VNI: 1024, Subnet4: netip.MustParsePrefix("9.0.0.0/8")}, Blocks: slices.DeleteFunc(four, is6)},
	}, c.err
}

func (c *cluster) Nodes(context.Context) ([]control.Node, error) { return c.nodes, c.err }

func (c *cluster) RemoveNode(_ context.Context, id discovery.NodeID, force bool) error {
	i := slices.IndexFunc(c.nodes, func(n control.Node) bool { return n.ID == id })
	if c.nodes[i].Alive && !force {
		return fmt.Errorf("%w: node %s is alive", control.ErrInUse, id)
	}
	c.nodes = slices.Delete(c.nodes, i, i+1)
	c.blocks = slices.DeleteFunc(c.blocks, func(b overlay.Block) bool { return b.Node == id })
	c.removed = append(c.removed, id)
	return nil
}

func (c *cluster) ask(method, path, body string) (int, string, http.Header) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	compat.MasterHandler(compat.DefaultPlan(), c, "").ServeHTTP(w, r)
	return w.Code, w.Body.String(), w.Header()
}

func same(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("%v in %s", err, got)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	code, body, header := newCluster().ask("GET", "/overlay-master/state", "")
	if code != http.StatusOK || header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d, %s", code, header.Get("Content-Type"))
	}
	same(t, body, `{
		"network": {
			"vtep_subnet": "44.128.0.0/20", "vtep_subnet6": "fd01:a::/64", "vtep_mac_oui": "70:B3:D5:00:00:00",
			"overlays": [
				{"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24, "enabled": true},
				{"name": "dcos6", "subnet6": "fd01:b::/64", "prefix6": 80, "enabled": true}
			]
		},
		"agents": [
			{"ip": "10.0.0.1", "overlays": [
				{
					"info": {"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24}, "subnet": "9.0.0.0/24",
					"backend": {"vxlan": {"vni": 1024, "vtep_name": "weft-vx0", "vtep_ip": "44.128.0.1/20", "vtep_ip6": "fd01:a::1/64", "vtep_mac": "70:b3:d5:80:00:01", "vtep_mtu": 1450}},
					"state": {"status": "STATUS_OK"}
				},
				{
					"info": {"name": "dcos6", "subnet6": "fd01:b::/64", "prefix6": 80}, "subnet6": "fd01:b::/80",
					"backend": {"vxlan": {"vni": 1025, "vtep_name": "weft-vx0", "vtep_ip": "44.128.0.1/20", "vtep_ip6": "fd01:a::1/64", "vtep_mac": "70:b3:d5:80:00:01", "vtep_mtu": 1450}},
					"state": {"status": "STATUS_OK"}
				}
			]},
			{"ip": "10.0.0.2", "overlays": [
				{
					"info": {"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24}, "subnet": "9.0.1.0/24",
					"backend": {"vxlan": {"vni": 1024, "vtep_name": "weft-vx0", "vtep_ip": "44.128.0.2/20", "vtep_ip6": "fd01:a::2/64", "vtep_mac": "70:b3:d5:80:00:02", "vtep_mtu": 8950}},
					"state": {"status": "STATUS_OK"}
				},
				{
					"info": {"name": "dcos6", "subnet6": "fd01:b::/64", "prefix6": 80},
					"backend": {"vxlan": {"vni": 1025, "vtep_name": "weft-vx0", "vtep_ip": "44.128.0.2/20", "vtep_ip6": "fd01:a::2/64", "vtep_mac": "70:b3:d5:80:00:02", "vtep_mtu": 8950}},
					"state": {"status": "STATUS_CONFIGURING"}
				}
			]},
			{"ip": "10.0.0.3", "overlays": [
				{"info": {"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24}, "backend": {"vxlan": {"vni": 1024, "vtep_name": "weft-vx0"}}, "state": {"status": "STATUS_CONFIGURING"}},
				{"info": {"name": "dcos6", "subnet6": "fd01:b::/64", "prefix6": 80}, "backend": {"vxlan": {"vni": 1025, "vtep_name": "weft-vx0"}}, "state": {"status": "STATUS_CONFIGURING"}}
			]}
		]
	}`)
	_, call, header := newCluster().ask("GET", "/overlay-master/state?jsonp=f", "")
	if call != "f("+body+");" || header.Get("Content-Type") != "text/javascript" {
		t.Errorf("jsonp: got %s as %s", call, header.Get("Content-Type"))
	}
}

func TestDeleteFreesWhatAgentsHad(t *testing.T) {
	t.Parallel()
	c := newCluster()
	_, before, _ := c.ask("GET", "/overlay-master/state", "")
	code, after, _ := c.ask("POST", "/overlay-master/agents/delete", `{"agents": ["10.0.0.2", "10.0.0.99"]}`)
	if code != http.StatusOK || after == before || strings.Contains(after, "10.0.0.2") || !slices.Equal(c.removed, []discovery.NodeID{"h2"}) {
		t.Errorf("got %d, %v, %s", code, c.removed, after)
	}
	for _, row := range []struct {
		method, body string
		err          error
		want         int
	}{
		{"GET", "", nil, http.StatusMethodNotAllowed},
		{"PUT", `{"agents": []}`, nil, http.StatusMethodNotAllowed},
		{"POST", "agents", nil, http.StatusBadRequest},
		{"POST", `{"agents": ["h1"]}`, nil, http.StatusBadRequest},
		{"POST", `{"agents": ["10.0.0.1"]}`, nil, http.StatusConflict}, // it is alive
		{"POST", `{"agents": ["10.0.0.3"]}`, control.ErrUnavailable, http.StatusServiceUnavailable},
	} {
		c.err = row.err
		if code, body, _ := c.ask(row.method, "/overlay-master/agents/delete", row.body); code != row.want {
			t.Errorf("%s %s: got %d %s, want %d", row.method, row.body, code, body, row.want)
		}
	}
	handler := compat.MasterHandler(compat.DefaultPlan(), c, "0123456789abcdef")
	r := httptest.NewRequest("POST", "/overlay-master/agents/delete", strings.NewReader(`{"agents": []}`))
	w := httptest.NewRecorder()
	if handler.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("without the secret: got %d", w.Code)
	}
}

func TestVTEPsAreOfTheirOwn(t *testing.T) {
	t.Parallel()
	p := compat.DefaultPlan()
	seen := make(map[string]bool)
	for n := range uint32(4094) {
		ip4, ip6, mac, err := p.VTEP(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{ip4.String(), ip6.String(), mac} {
			if seen[s] {
				t.Fatalf("agent %d: %s is another's", n, s)
			}
			seen[s] = true
		}
	}
	if _, _, _, err := p.VTEP(4094); err == nil || !strings.Contains(err.Error(), "44.128.0.0/20") {
		t.Errorf("got %v, want the subnet to be full", err)
	}
}

// TestMACsOfAWideSubnetAreOfTheirOwn: a MAC ends as its VTEP's address does.
func TestMACsOfAWideSubnetAreOfTheirOwn(t *testing.T) {
	t.Parallel()
	p := compat.DefaultPlan()
	p.VTEPs4 = netip.MustParsePrefix("44.0.0.0/8")
	rapid.Check(t, func(t *rapid.T) {
		agent := rapid.Uint32Range(0, 1<<24-3)
		a, b := agent.Draw(t, "a"), agent.Draw(t, "b")
		_, _, one, err := p.VTEP(a)
		if err != nil {
			t.Fatal(err)
		}
		_, _, other, err := p.VTEP(b)
		if err != nil || (one == other) != (a == b) {
			t.Fatalf("agents %d and %d have %s and %s, %v", a, b, one, other, err)
		}
	})
}

func TestAgentsOfDCOSKnowANodeByTheMACOfItsDocuments(t *testing.T) {
	t.Parallel()
	networks := []overlay.Network{
		{Name: "dcos6", VNI: 1025, Subnet6: netip.MustParsePrefix("fd01:b::/64"), Block6: 80},
		{Name: "dcos", VNI: 1024, Subnet4: netip.MustParsePrefix("9.0.0.0/8")},
	}
	var blocks []overlay.Block
	for _, b := range newCluster().blocks {
		if b.Network = "dcos"; b.Prefix.Addr().Is6() {
			b.Network = "dcos6"
		}
		blocks = append(blocks, b)
	}
	for node, want := range map[discovery.NodeID][6]byte{"h1": {0x70, 0xb3, 0xd5, 0x80, 0, 1}, "h2": {0x70, 0xb3, 0xd5, 0x80, 0, 2}, "h3": {}} {
		if got := compat.DefaultPlan().MACOf(networks, blocks, node); got != want {
			t.Errorf("%s: got %x, want %x", node, got, want)
		}
	}
	if got := compat.DefaultPlan().MACOf(nil, blocks, "h1"); got != [6]byte{} {
		t.Errorf("without networks: got %x, want none", got)
	}
}
