// SPDX-License-Identifier: Apache-2.0

package compat_test

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
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
	compat.MasterHandler(compat.DefaultPlan(), c, "", netip.MustParseAddr("10.0.0.1")).ServeHTTP(w, r)
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
	if diff := gocmp.Diff(w, g); diff != "" {
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
	handler := compat.MasterHandler(compat.DefaultPlan(), c, "0123456789abcdef", netip.Addr{})
	r := httptest.NewRequest("POST", "/overlay-master/agents/delete", strings.NewReader(`{"agents": []}`))
	w := httptest.NewRecorder()
	if handler.ServeHTTP(w, r); w.Code != http.StatusUnauthorized {
		t.Errorf("without the secret: got %d", w.Code)
	}
}

// What an agent's document says where agents and overlays differ (net-tests 6).
func TestAgentsOfEveryKind(t *testing.T) {
	t.Parallel()
	network := func(name string, vni overlay.VNI, subnets ...string) control.Network {
		n := control.Network{Network: overlay.Network{Name: name, VNI: vni}}
		for _, s := range subnets {
			if p := netip.MustParsePrefix(s); p.Addr().Is4() {
				n.Subnet4 = p
			} else {
				n.Subnet6, n.Block6 = p, 80
			}
		}
		return n
	}
	four, both := network("dcos", 1024, "9.0.0.0/8"), network("dcos", 1024, "9.0.0.0/8", "fd01:b::/64")
	later := network("dcos6", 1025, "fd04::/64")
	refused := []discovery.Refusal{
		{Network: "dcos6", Reason: "none is left"}, {Reason: "address 9.9.9.9 is not part of network dcos (9.0.0.0/8)"},
	}
	for name, row := range map[string]struct {
		vtep     string
		mtu      int
		refusals []discovery.Refusal
		networks []control.Network
		blocks   []string // of h1, each of the first network that holds it
		want     []string // per overlay: subnet subnet6 vtep_ip vtep_mac vtep_mtu status error
	}{
		"usual":                    {"10.0.0.1", 1500, nil, []control.Network{four}, []string{"9.0.3.0/24"}, []string{"9.0.3.0/24 - 44.128.0.4/20 70:b3:d5:80:00:04 1450 STATUS_OK -"}},
		"MTU 9000":                 {"10.0.0.1", 9000, nil, []control.Network{four}, []string{"9.0.0.0/24"}, []string{"9.0.0.0/24 - 44.128.0.1/20 70:b3:d5:80:00:01 8950 STATUS_OK -"}},
		"MTU 9000, IPv6 underlay":  {"fd00::1", 9000, nil, []control.Network{four}, []string{"9.0.0.0/24"}, []string{"9.0.0.0/24 - 44.128.0.1/20 70:b3:d5:80:00:01 8930 STATUS_OK -"}},
		"the same with another IP": {"10.9.9.9", 1500, nil, []control.Network{four}, []string{"9.0.3.0/24"}, []string{"9.0.3.0/24 - 44.128.0.4/20 70:b3:d5:80:00:04 1450 STATUS_OK -"}},
		"a family was added":       {"10.0.0.1", 1500, nil, []control.Network{both}, []string{"9.0.0.0/24"}, []string{"9.0.0.0/24 - 44.128.0.1/20 70:b3:d5:80:00:01 1450 STATUS_CONFIGURING -"}},
		"and its block given": {"10.0.0.1", 1500, nil, []control.Network{both}, []string{"9.0.0.0/24", "fd01:b:0:0:7::/80"}, []string{
			"9.0.0.0/24 fd01:b:0:0:7::/80 44.128.0.1/20 70:b3:d5:80:00:01 1450 STATUS_OK -",
		}},
		"an overlay was added, and is full": {"10.0.0.1", 1500, refused, []control.Network{later, four}, []string{"9.0.0.0/24"}, []string{
			"9.0.0.0/24 - 44.128.0.1/20 70:b3:d5:80:00:01 1450 STATUS_OK -",
			"- - 44.128.0.1/20 70:b3:d5:80:00:01 1450 STATUS_FAILED " + refused[0].Reason,
		}},
		"what was refused is no overlay's": {"10.0.0.1", 1500, refused, []control.Network{four}, nil, []string{"- - - - 1450 STATUS_CONFIGURING -"}},
		"one agent too many": {"10.0.0.1", 1500, nil, []control.Network{four}, []string{"9.15.254.0/24"}, []string{
			"9.15.254.0/24 - - - 1450 STATUS_FAILED vtep_subnet 44.128.0.0/20 has no address for agent 4095",
		}},
		"the last that there is room for": {"10.0.0.1", 1500, nil, []control.Network{four}, []string{"9.15.253.0/24"}, []string{
			"9.15.253.0/24 - 44.128.15.254/20 70:b3:d5:80:0f:fe 1450 STATUS_OK -",
		}},
	} {
		for _, text := range row.blocks {
			p := netip.MustParsePrefix(text)
			i := slices.IndexFunc(row.networks, func(n control.Network) bool { return n.Subnet4.Contains(p.Addr()) || n.Subnet6.Contains(p.Addr()) })
			row.networks[i].Blocks = append(row.networks[i].Blocks, overlay.Block{Node: "h1", Prefix: p})
		}
		vtep := netip.MustParseAddr(row.vtep)
		node := control.Node{Node: discovery.Node{ID: "h1", MTU: row.mtu}, VTEP: vtep}
		for _, r := range row.refusals {
			node.Refuse(r)
		}
		agent := compat.AgentOf(compat.DefaultPlan(), row.networks, node)
		var got []string
		for _, o := range agent.Overlays {
			x := o.Backend.VXLAN
			fields := []string{o.Subnet, o.Subnet6, x.VTEPIP, x.VTEPMAC, fmt.Sprint(x.VTEPMTU), o.State.Status, o.State.Error}
			for i, f := range fields {
				fields[i] = cmp.Or(f, "-")
			}
			got = append(got, strings.Join(fields, " "))
		}
		if diff := gocmp.Diff(row.want, got); diff != "" || agent.IP != row.vtep {
			t.Errorf("%s: %s, -want +got\n%s", name, agent.IP, diff)
		}
	}
}

// DC/OS' masters run the agent's module too: its check of overlays asks each master at its own port (net-tests 8:
// test_if_overlay_ok).
func TestAMasterAnswersForTheAgentOfItsHost(t *testing.T) {
	t.Parallel()
	c := newCluster()
	_, state, _ := c.ask("GET", "/overlay-master/state", "")
	code, body, header := c.ask("GET", "/overlay-agent/overlay", "")
	var all compat.State
	var mine compat.Agent
	if err := errors.Join(json.Unmarshal([]byte(state), &all), json.Unmarshal([]byte(body), &mine)); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s, %v", code, body, err)
	}
	if header.Get("Content-Type") != "application/json" || mine.Attempts == nil || *mine.Attempts != 1 {
		t.Errorf("%v: %s", header, body)
	}
	mine.Attempts = nil
	if diff := gocmp.Diff(all.Agents[0], mine); diff != "" {
		t.Errorf("-state +agent\n%s", diff)
	}
	c.nodes[0].VTEP, c.nodes[0].Addrs = netip.MustParseAddr("fd00::1"), []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1")}
	if code, body, _ := c.ask("GET", "/overlay-agent/overlay", ""); code != http.StatusOK || !strings.Contains(body, `"ip":"fd00::1"`) {
		t.Errorf("by another address of the host: %d %s", code, body)
	}
	c.nodes = c.nodes[1:]
	if code, body, _ := c.ask("GET", "/overlay-agent/overlay", ""); code != http.StatusNotFound || !strings.Contains(body, "no node is at 10.0.0.1") {
		t.Errorf("without an agent there: %d %s", code, body)
	}
}

// Who takes protobuf alone gets that (net.md A8). The bytes are those that protoc makes by the definitions of DC/OS' module.
func TestProtobufForWhoTakesNoJSON(t *testing.T) {
	t.Parallel()
	vxlan := compat.VXLAN{
		VNI: 1024, VTEPName: "weft-vx0", VTEPIP: "44.128.0.1/20", VTEPIP6: "fd01:a::1/64", VTEPMAC: "70:b3:d5:80:00:01", VTEPMTU: 1450,
	}
	none := func(vni uint32) compat.Backend {
		return compat.Backend{VXLAN: compat.VXLAN{VNI: vni, VTEPName: "weft-vx0"}}
	}
	handler := compat.AgentHandler(func(context.Context) (compat.Agent, error) {
		return compat.Agent{IP: "10.0.0.1", Overlays: []compat.Overlay{
			{Info: compat.Info{Name: "dcos", Subnet: "9.0.0.0/8", Prefix: 24}, Subnet: "9.0.0.0/24", Backend: compat.Backend{VXLAN: vxlan}, State: compat.Status{Status: compat.StatusOK}},
			{
				Info: compat.Info{Name: "dcos6", Subnet6: "fd01:b::/64", Prefix6: 80}, Subnet6: "fd01:b::/80", Backend: none(1025),
				State: compat.Status{Status: compat.StatusFailed, Error: "no block"},
			},
			{Info: compat.Info{Name: "x"}, Backend: none(1026), State: compat.Status{Status: compat.StatusConfiguring}},
		}}, nil
	})
	want := "0a0831302e302e302e3112690a130a0464636f731209392e302e302e302f381818120a392e302e302e302f32342a420a4008" +
		"80081208776566742d7678301a0d34342e3132382e302e312f3230221137303a62333a64353a38303a30303a30312a0c6664" +
		"30313a613a3a312f363430aa0b3202080112480a160a0564636f7336220b666430313a623a3a2f363428502a130a11088108" +
		"1208776566742d7678301a002200320c080212086e6f20626c6f636b3a0b666430313a623a3a2f3830121e0a030a01782a13" +
		"0a110882081208776566742d7678301a002200320208031801"
	for accept, protobuf := range map[string]bool{
		"": false, "*/*": false, "application/json": false, "application/x-protobuf, application/json": false, "text/html": false,
		"application/x-protobuf": true, "text/html, Application/X-Protobuf;q=0.5": true,
	} {
		r, w := httptest.NewRequest("GET", "/overlay-agent/overlay", nil), httptest.NewRecorder()
		if accept != "" {
			r.Header.Set("Accept", accept)
		}
		handler.ServeHTTP(w, r)
		kind := "application/json"
		if protobuf {
			kind = "application/x-protobuf"
		}
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || got != kind {
			t.Errorf("accepting %q: %d %s, want %s", accept, w.Code, got, kind)
		}
		if got := hex.EncodeToString(w.Body.Bytes()); protobuf && got != want {
			t.Errorf("accepting %q: %s, want %s", accept, got, want)
		}
	}
}

// Who writes a slash too many is answered, not sent elsewhere.
func TestSlashesTooMany(t *testing.T) {
	t.Parallel()
	c := newCluster()
	for _, path := range []string{"/overlay-master/state/", "//overlay-master/state", "/overlay-master//state//", "/overlay-agent/overlay/"} {
		if code, body, _ := c.ask("GET", path, ""); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, body, _ := c.ask("POST", "//overlay-master/agents/delete/", `{"agents": []}`); code != http.StatusOK {
		t.Errorf("delete: %d %s", code, body)
	}
	if code, _, _ := c.ask("GET", "/overlay-master", ""); code != http.StatusNotFound {
		t.Errorf("another path: %d", code)
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
