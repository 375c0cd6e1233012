// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	cni "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"weft/discovery"
	"weft/discovery/discoverypb"
	discoveryfake "weft/discovery/fake"
	lbfake "weft/lb/fake"
	"weft/lb/lbpb"
	"weft/overlay"
	"weft/overlay/apply"
	overlayfake "weft/overlay/fake"
	"weft/overlay/overlaypb"
)

// pluginEnv makes the test binary the plugin.
const pluginEnv = "WEFT_CNI_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(pluginEnv) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// daemon is a node daemon made of fakes, behind a socket.
type daemon struct {
	overlay   *overlayfake.Service
	lb        *lbfake.Service
	discovery *discoveryfake.Service
	socket    string
}

func serve(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{
		overlay: overlayfake.New(overlayfake.Options{
			Networks: []overlay.Network{
				{Name: "prod", Subnet4: netip.MustParsePrefix("9.0.0.0/16"), Subnet6: netip.MustParsePrefix("fd01:b::/64")},
				{Name: "dev", Subnet4: netip.MustParsePrefix("10.0.0.0/16")},
			},
			Groups: []overlay.Group{{Network: "prod", Name: "web"}, {Network: "prod", Name: "db"}},
		}),
		lb:        lbfake.New("prod", "dev"),
		discovery: discoveryfake.New("fake"),
		socket:    filepath.Join(t.TempDir(), "netd.sock"),
	}
	listener, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	overlaypb.Register(server, d.overlay)
	lbpb.Register(server, d.lb)
	discoverypb.Register(server, d.discovery)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d
}

// call is one run of the plugin.
type call struct {
	verb, container, ifname, args string
	config                        map[string]any
}

// do runs the plugin and decodes what it printed into out. A failure is a *types.Error.
func (d *daemon) do(t *testing.T, c call, out any) error {
	t.Helper()
	config := map[string]any{"cniVersion": "1.1.0", "name": "prod", "type": "weft-cni", "socket": d.socket}
	maps.Copy(config, c.config)
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if c.ifname == "" {
		c.ifname = "eth0"
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), pluginEnv+"=1", "CNI_COMMAND="+c.verb, "CNI_CONTAINERID="+c.container, "CNI_IFNAME="+c.ifname,
		"CNI_NETNS=/run/netns/test", "CNI_ARGS="+c.args, "CNI_PATH=/opt/cni/bin", "CNI_NETNS_OVERRIDE=1", "GORACE=atexit_sleep_ms=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(text), &stdout, &stderr
	err = cmd.Run()
	if stderr.Len() > 0 {
		t.Errorf("%s wrote to standard error: %s", c.verb, stderr.String())
	}
	if err != nil {
		var failure types.Error
		if jsonErr := json.Unmarshal(stdout.Bytes(), &failure); jsonErr != nil || failure.Code == 0 {
			t.Fatalf("%s failed (%v) without saying why in JSON: %s", c.verb, err, stdout.String())
		}
		return &failure
	}
	if out != nil {
		if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
			t.Fatalf("%s: %v in %s", c.verb, err, stdout.String())
		}
	} else if stdout.Len() > 0 {
		t.Errorf("%s printed %s", c.verb, stdout.String())
	}
	return nil
}

func (d *daemon) add(t *testing.T, c call) *cni.Result {
	t.Helper()
	c.verb = "ADD"
	r := &cni.Result{}
	if err := d.do(t, c, r); err != nil {
		t.Fatal(err)
	}
	return r
}

// refused expects a failure with this code and text.
func refused(t *testing.T, what string, err error, code uint, text string) {
	t.Helper()
	var failure *types.Error
	if !errors.As(err, &failure) || failure.Code != code || !strings.Contains(failure.Msg, text) {
		t.Errorf("%s: %v, want code %d with %q", what, err, code, text)
	}
}

// state is what the node holds: attachments, backends and names.
func (d *daemon) state(t *testing.T) []string {
	t.Helper()
	endpoints, err := d.overlay.Endpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vips, err := d.lb.VIPs(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := d.discovery.Rows(t.Context(), "name")
	if err != nil {
		t.Fatal(err)
	}
	var state []string
	for _, e := range endpoints {
		state = append(state, fmt.Sprintf("endpoint %s %s %s %v", e.ID, e.Network, e.Name, e.Groups))
		for _, m := range e.Ports {
			state = append(state, "port "+m.String())
		}
	}
	for _, v := range vips {
		for _, b := range v.Backends {
			state = append(state, fmt.Sprintf("backend %s %s", v.Key, b.Task))
		}
	}
	for _, r := range rows {
		var n discovery.Name
		if err := json.Unmarshal(r.Value, &n); err != nil {
			t.Fatal(err)
		}
		line := "name " + r.Key
		if n.Mapped {
			line += ", by ports of the node"
		}
		state = append(state, line)
	}
	return state
}

func (d *daemon) expect(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, d.state(t)); diff != "" {
		t.Errorf("the node's state (-want +got):\n%s", diff)
	}
}

func TestAddTellsWhatTheContainerGot(t *testing.T) {
	d := serve(t)
	var got any
	if err := d.do(t, call{verb: "ADD", container: "c1", args: "IgnoreUnknown=1;WEFT_NAME=web", config: map[string]any{
		"groups": []string{"web"}, "vips": []string{"/web:80=8080/tcp"},
	}}, &got); err != nil {
		t.Fatal(err)
	}
	endpoints, err := d.overlay.Endpoints(t.Context())
	if err != nil || len(endpoints) != 1 {
		t.Fatalf("%v %v, want one endpoint", endpoints, err)
	}
	e := endpoints[0]
	var want any
	err = json.Unmarshal(fmt.Appendf(nil, `{
		"cniVersion": "1.1.0",
		"interfaces": [
			{"name": %q},
			{"name": "eth0", "mac": %q, "mtu": %d, "sandbox": "/run/netns/test"}
		],
		"ips": [
			{"address": "%s/32", "gateway": "169.254.1.1", "interface": 1},
			{"address": "%s/128", "gateway": "fe80::1", "interface": 1}
		],
		"routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
		"dns": {
			"nameservers": ["198.51.100.1", "fd01:d::c633:6401"],
			"search": ["weft.mesos", "weft.l4lb.thisdcos.directory"]
		}
	}`, e.HostInterface, e.MAC, e.MTU, e.Addr4, e.Addr6), &want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	d.expect(t, "endpoint cni/prod/c1/eth0 prod web [web]", "backend prod/web.weft:80/tcp cni/prod/c1/eth0", "name web/cni/prod/c1/eth0")
}

func TestLinkConstantsAreTheOverlays(t *testing.T) {
	for got, want := range map[string]string{
		gateway4: apply.Gateway4, gateway6: apply.Gateway6, nameServer4: apply.NameServer4, nameServer6: apply.NameServer6,
	} {
		if got != want {
			t.Errorf("%s, want what every link has: %s", got, want)
		}
	}
}

func TestOlderVersionsGetTheirForm(t *testing.T) {
	d := serve(t)
	for i, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"} {
		var got struct {
			CNIVersion string
			IPs        []struct{ Address string }
		}
		c := call{verb: "ADD", container: fmt.Sprint("c", i), config: map[string]any{"cniVersion": version}}
		if err := d.do(t, c, &got); err != nil {
			t.Fatal(err)
		}
		if got.CNIVersion != version || len(got.IPs) != 2 {
			t.Errorf("%s: %+v", version, got)
		}
	}
	refused(t, "9.9.9", d.do(t, call{verb: "ADD", container: "c", config: map[string]any{"cniVersion": "9.9.9"}}, nil),
		types.ErrIncompatibleCNIVersion, "incompatible")
	var version struct {
		SupportedVersions []string
	}
	if err := d.do(t, call{verb: "VERSION"}, &version); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(version.SupportedVersions, "1.1.0") {
		t.Errorf("%+v, want 1.1.0", version)
	}
}

// A Mesos agent reads results in the form of CNI 0.2.0, and configurations of DC/OS have no version (net.md A6). What else of
// mesos-cni-port-mapper they have is left there.
func TestConfigurationOfDCOS(t *testing.T) {
	d := serve(t)
	for i, version := range []any{nil, "0.1.0", "0.2.0"} {
		c := call{container: fmt.Sprint("c", i), config: map[string]any{
			"cniVersion": version, "excludeDevices": []string{"m-dcos"}, "chain": "M-DCOS", "delegate": map[string]any{
				"type": "bridge", "bridge": "m-dcos", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": 1420,
				"ipam": map[string]any{"type": "host-local", "subnet": "9.0.0.0/25", "routes": []map[string]string{{"dst": "0.0.0.0/0"}}},
			},
			"args": map[string]any{"org.apache.mesos": map[string]any{"network_info": map[string]any{"name": "dcos"}}},
		}}
		c.verb = "ADD"
		type part struct {
			IP, Gateway string
			Routes      []struct{ Dst, GW string }
		}
		var got struct {
			IP4, IP6 part
			DNS      struct{ Nameservers []string }
		}
		if err := d.do(t, c, &got); err != nil {
			t.Fatalf("version %v: %v", version, err)
		}
		endpoints, err := d.overlay.Endpoints(t.Context())
		if err != nil || len(endpoints) != 1 {
			t.Fatalf("version %v: %v %v", version, endpoints, err)
		}
		e := endpoints[0]
		if got.IP4.IP != e.Addr4.String()+"/32" || got.IP6.IP != e.Addr6.String()+"/128" || got.IP4.Gateway != gateway4 || got.IP6.Gateway != gateway6 ||
			len(got.IP4.Routes) != 1 || got.IP4.Routes[0].Dst != "0.0.0.0/0" || len(got.IP6.Routes) != 1 || got.IP6.Routes[0].Dst != "::/0" ||
			!slices.Equal(got.DNS.Nameservers, []string{nameServer4, nameServer6}) {
			t.Errorf("version %v: %+v, of %s and %s", version, got, e.Addr4, e.Addr6)
		}
		c.verb = "DEL"
		if err := d.do(t, c, nil); err != nil {
			t.Errorf("version %v: %v", version, err)
		}
		d.expect(t)
	}
}

func TestDelIsIdempotent(t *testing.T) {
	d := serve(t)
	config := map[string]any{"vips": []string{"/web:80=8080"}}
	d.add(t, call{container: "c1", args: "WEFT_NAME=web", config: config})
	for range 2 {
		if err := d.do(t, call{verb: "DEL", container: "c1", config: config}, nil); err != nil {
			t.Error(err)
		}
		d.expect(t)
	}
	if err := d.do(t, call{verb: "DEL", container: "never"}, nil); err != nil {
		t.Error(err)
	}
}

func TestTwoInterfacesAreTwoTasks(t *testing.T) {
	d := serve(t)
	d.add(t, call{container: "c1", config: map[string]any{"vips": []string{"/web:80=8080/tcp"}}})
	d.add(t, call{container: "c1", ifname: "eth1", config: map[string]any{"name": "dev-net", "network": "dev", "vips": []string{"/web:80=8080/tcp"}}})
	d.expect(t,
		"endpoint cni/dev-net/c1/eth1 dev c1 []", "endpoint cni/prod/c1/eth0 prod c1 []",
		"backend dev/web.weft:80/tcp cni/dev-net/c1/eth1", "backend prod/web.weft:80/tcp cni/prod/c1/eth0",
	)
}

func TestArgumentsOfTheRuntime(t *testing.T) {
	d := serve(t)
	d.add(t, call{
		container: "c1", args: "K8S_POD_NAMESPACE=a;K8S_POD_NAME=web.1;WEFT_GROUPS=web,db;WEFT_VIPS=/web:80=8080/tcp,/api:80=8081/tcp",
	})
	d.expect(t, "endpoint cni/prod/c1/eth0 prod web-1 [db web]",
		"backend prod/api.weft:80/tcp cni/prod/c1/eth0", "backend prod/web.weft:80/tcp cni/prod/c1/eth0", "name web-1/cni/prod/c1/eth0")
	refused(t, "arguments", d.do(t, call{verb: "ADD", container: "c2", args: "WEFT_NAME"}, nil), types.ErrInvalidNetworkConfig, "KEY=VALUE")
}

func TestPortMappingsOfTheRuntime(t *testing.T) {
	d := serve(t)
	mappings := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{
		{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
		{"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"},
		{"containerPort": 9090}, // a port of the container's, no wish
	}}}
	prev := d.add(t, call{container: "c1", args: "WEFT_NAME=c1", config: mappings})
	d.expect(t, "endpoint cni/prod/c1/eth0 prod c1 []", "port 127.0.0.1:53:5353/udp", "port 8080:80/tcp", "name c1/cni/prod/c1/eth0, by ports of the node")
	check := call{verb: "CHECK", container: "c1", config: map[string]any{"prevResult": prev}}
	refused(t, "other ports", d.do(t, check, nil), types.ErrUnknownContainer, "port mappings")
	maps.Copy(check.config, mappings)
	if err := d.do(t, check, nil); err != nil {
		t.Error(err)
	}
	for text, m := range map[string]map[string]any{
		"containerPort 0":   {"hostPort": 81},
		"hostPort 70000":    {"hostPort": 70000, "containerPort": 1},
		`hostIP "here"`:     {"hostPort": 81, "containerPort": 1, "hostIP": "here"},
		`protocol "sctp"`:   {"hostPort": 81, "containerPort": 1, "protocol": "sctp"},
		"leads to task cni": {"hostPort": 8080, "containerPort": 1},
	} {
		config := map[string]any{"runtimeConfig": map[string]any{"portMappings": []map[string]any{m}}}
		code := types.ErrInvalidNetworkConfig
		if strings.HasPrefix(text, "leads") {
			code = types.ErrInternal
		}
		refused(t, text, d.do(t, call{verb: "ADD", container: "c2", config: config}, nil), code, text)
	}
	if err := d.do(t, call{verb: "DEL", container: "c1", config: mappings}, nil); err != nil {
		t.Error(err)
	}
	d.expect(t)
}

func TestAddressesOfTheRuntime(t *testing.T) {
	d := serve(t)
	for container, c := range map[string]call{
		"capability": {config: map[string]any{"runtimeConfig": map[string]any{"ips": []string{"9.0.0.7/16"}}}},
		"argument":   {config: map[string]any{"args": map[string]any{"cni": map[string]any{"ips": []string{"9.0.0.8"}}}}},
		"variable":   {args: "IP=9.0.0.9"},
	} {
		c.container = container
		want := map[string]string{"capability": "9.0.0.7", "argument": "9.0.0.8", "variable": "9.0.0.9"}[container]
		if got := fmt.Sprint(d.add(t, c)); !strings.Contains(got, "IP:"+want+" ") {
			t.Errorf("%s: got %s, want %s", container, got, want)
		}
	}
	refused(t, "not an address", d.do(t, call{verb: "ADD", container: "c2", args: "IP=web"}, nil), types.ErrInvalidNetworkConfig, `ips "web"`)
	refused(t, "taken", d.do(t, call{verb: "ADD", container: "c2", args: "IP=9.0.0.9"}, nil), types.ErrInternal, "9.0.0.9")
}

func TestNetworkInfoOfAMesosAgent(t *testing.T) {
	d := serve(t)
	d.add(t, call{container: "c1", config: map[string]any{"args": map[string]any{"org.apache.mesos": map[string]any{
		"network_info": map[string]any{
			"name": "prod", "groups": []string{"db"}, "labels": map[string]any{"labels": []map[string]string{{"key": "groups", "value": "web"}, {"key": "x", "value": "y"}}},
			"ip_addresses":  []map[string]string{{"protocol": "IPv6"}, {"ip_address": "9.0.0.77"}},
			"port_mappings": []map[string]any{{"host_port": 31000, "container_port": 80}, {"host_port": 31001, "container_port": 53, "protocol": "udp"}},
		},
	}}}})
	d.expect(t, "endpoint cni/prod/c1/eth0 prod c1 [db web]", "port 31000:80/tcp", "port 31001:53/udp")
	endpoints, err := d.overlay.Endpoints(t.Context())
	if err != nil || len(endpoints) != 1 || endpoints[0].Addr4.String() != "9.0.0.77" || !endpoints[0].Addr6.IsValid() {
		t.Errorf("%+v, %v, want the address that was asked for, and any of IPv6", endpoints, err)
	}
	taken := map[string]any{"args": map[string]any{"org.apache.mesos": map[string]any{"network_info": map[string]any{
		"ip_addresses": []map[string]string{{"ip_address": "9.0.0.77"}},
	}}}}
	refused(t, "taken", d.do(t, call{verb: "ADD", container: "c2", config: taken}, nil), types.ErrInternal, "9.0.0.77") // the task fails
}

func TestCheck(t *testing.T) {
	d := serve(t)
	config := map[string]any{"vips": []string{"/web:80=8080"}}
	prev := d.add(t, call{container: "c1", config: config})
	check := call{verb: "CHECK", container: "c1", config: map[string]any{"vips": config["vips"], "prevResult": prev}}
	if err := d.do(t, check, nil); err != nil {
		t.Error(err)
	}
	refused(t, "without result", d.do(t, call{verb: "CHECK", container: "c1"}, nil), types.ErrInternal, "prevResult")
	if err := d.lb.Withdraw(t.Context(), "cni/prod/c1/eth0"); err != nil {
		t.Fatal(err)
	}
	refused(t, "without VIP", d.do(t, check, nil), types.ErrUnknownContainer, "behind none of its VIPs /web:80=8080")
	prev.IPs = prev.IPs[:1]
	refused(t, "other addresses", d.do(t, check, nil), types.ErrUnknownContainer, "and ADD told")
	if err := d.overlay.Detach(t.Context(), "cni/prod/c1/eth0"); err != nil {
		t.Fatal(err)
	}
	refused(t, "detached", d.do(t, check, nil), types.ErrUnknownContainer, "no address in network prod")
}

func TestCollectTakesOutWhatTheRuntimeForgot(t *testing.T) {
	d := serve(t)
	for _, id := range []string{"c1", "c2"} {
		d.add(t, call{container: id, config: map[string]any{"vips": []string{"/web:80=8080/tcp"}}})
	}
	d.add(t, call{container: "c3", config: map[string]any{"name": "prod-2", "network": "prod"}}) // another configuration's
	_, err := d.overlay.Attach(t.Context(), overlay.Attachment{ID: "web-1", Task: "web-1", Network: "prod", NetNS: "/proc/1/ns/net"})
	if err != nil {
		t.Fatal(err) // weft run's
	}
	gc := call{verb: "GC", config: map[string]any{
		"cni.dev/valid-attachments": []map[string]string{{"containerID": "c2", "ifname": "eth0"}, {"containerID": "c9", "ifname": "eth0"}},
	}}
	if err := d.do(t, gc, nil); err != nil {
		t.Fatal(err)
	}
	d.expect(t, "endpoint cni/prod-2/c3/eth0 prod c3 []", "endpoint cni/prod/c2/eth0 prod c2 []", "endpoint web-1 prod web-1 []",
		"backend prod/web.weft:80/tcp cni/prod/c2/eth0")
}

func TestStatus(t *testing.T) {
	d := serve(t)
	if err := d.do(t, call{verb: "STATUS"}, nil); err != nil {
		t.Error(err)
	}
	refused(t, "unknown network", d.do(t, call{verb: "STATUS", config: map[string]any{"network": "nosuch"}}, nil),
		types.ErrPluginNotAvailable, `"nosuch" is not known to this node; known are: dev, prod`)
}

func TestFailedAddLeavesNothing(t *testing.T) {
	d := serve(t)
	for what, c := range map[string]struct {
		config map[string]any
		args   string
		text   string
	}{
		"network": {map[string]any{"network": "nosuch"}, "", "nosuch"},
		"group":   {map[string]any{"groups": []string{"nosuch"}}, "", "nosuch"},
		"label":   {map[string]any{"vips": []string{"/web:0=80"}}, "", "out of range"},
		"name":    {map[string]any{"vips": []string{"/web:80=80"}}, "WEFT_NAME=not_a_label", "not_a_label"},
		"socket":  {map[string]any{"socket": "netd.sock"}, "", "absolute path"},
	} {
		refused(t, what, d.do(t, call{verb: "ADD", container: "c1", config: c.config, args: c.args}, nil), types.ErrInvalidNetworkConfig, c.text)
		d.expect(t)
	}
	// What is already there under the same id is not this call's to undo.
	d.add(t, call{container: "c1"})
	if err := d.do(t, call{verb: "ADD", container: "c1", config: map[string]any{"network": "dev"}}, nil); err == nil {
		t.Error("another attachment under the same id was made")
	}
	d.expect(t, "endpoint cni/prod/c1/eth0 prod c1 []")
}

func TestWithoutDaemonTheRuntimeIsToldToTryAgain(t *testing.T) {
	d := &daemon{socket: filepath.Join(t.TempDir(), "none.sock")}
	for _, verb := range []string{"ADD", "DEL", "CHECK", "GC"} {
		refused(t, verb, d.do(t, call{verb: verb, container: "c1"}, nil), types.ErrTryAgainLater, "is weft netd running?")
	}
	refused(t, "STATUS", d.do(t, call{verb: "STATUS"}, nil), types.ErrPluginNotAvailable, "is weft netd running?")
}
