// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"weft/agent/health"
	"weft/overlay"
)

// defaultSocket is where the node daemon listens unless told otherwise.
const defaultSocket = "/run/weft/netd.sock"

// config is the network configuration that a runtime hands in, and what it says of the container:
//
//	{"cniVersion": "1.1.0", "name": "prod", "type": "weft-cni", "capabilities": {"portMappings": true},
//	 "network": "prod", "groups": ["web"], "vips": ["/web:80=8080"], "socket": "/run/weft/netd.sock"}
type config struct {
	types.PluginConf
	Network string   `json:"network"` // default: name
	Groups  []string `json:"groups"`
	VIPs    []string `json:"vips"`   // labels as in weft run --vip
	Health  string   `json:"health"` // check as in weft run --health, which the node asks by
	Socket  string   `json:"socket"` // of the node daemon

	// What the runtime adds for this container: the capabilities portMappings and ips and the argument ips
	// (CNI's conventions), and from a Mesos agent the NetworkInfo.
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
		IPs          []string      `json:"ips"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
		Mesos struct {
			NetworkInfo networkInfo `json:"network_info"`
		} `json:"org.apache.mesos"`
	} `json:"args"`

	// From CNI_ARGS: WEFT_NAME (or K8S_POD_NAME), a DNS label by which the container is found; and
	// WEFT_GROUPS and WEFT_VIPS, comma lists which are added to those of the configuration; WEFT_HEALTH, which is
	// in its place; and IP, a comma list of addresses that the container shall have.
	label string
	ports []overlay.PortMapping
	fixed []netip.Addr

	container, netns, ifname string
}

func parse(args *skel.CmdArgs) (config, error) {
	c := config{container: args.ContainerID, netns: args.Netns, ifname: args.IfName}
	if err := json.Unmarshal(args.StdinData, &c); err != nil {
		return c, fmt.Errorf("network configuration: %w", err)
	}
	if err := cniversion.ParsePrevResult(&c.PluginConf); err != nil {
		return c, fmt.Errorf("network configuration %s: %w", c.Name, err)
	}
	c.Network = cmp.Or(c.Network, c.Name)
	c.Socket = cmp.Or(c.Socket, defaultSocket)
	if !filepath.IsAbs(c.Socket) {
		return c, fmt.Errorf("network configuration %s: socket %q: an absolute path is needed", c.Name, c.Socket)
	}
	given, err := parseArgs(args.Args)
	if err != nil {
		return c, err
	}
	// Pod names may hold dots, which a label can't.
	c.label = cmp.Or(given["WEFT_NAME"], strings.ReplaceAll(given["K8S_POD_NAME"], ".", "-"))
	c.Groups = append(c.Groups, list(given["WEFT_GROUPS"])...)
	c.VIPs = append(c.VIPs, list(given["WEFT_VIPS"])...)
	if c.Health = cmp.Or(given["WEFT_HEALTH"], c.Health); c.Health != "" {
		if err := c.checkHealth(); err != nil {
			return c, fmt.Errorf("network configuration %s: %w", c.Name, err)
		}
	}
	mesos := c.Args.Mesos.NetworkInfo
	c.Groups = append(c.Groups, mesos.groups()...)
	if c.fixed, err = fixed(c.RuntimeConfig.IPs, c.Args.CNI.IPs, list(given["IP"]), mesos.fixed()); err != nil {
		return c, fmt.Errorf("network configuration %s: %w", c.Name, err)
	}
	if c.ports, err = c.mappings(); err != nil {
		return c, fmt.Errorf("network configuration %s: %w", c.Name, err)
	}
	return c, nil
}

// checkHealth refuses what the node can't ask by: it knows no process of the container.
func (c config) checkHealth() error {
	check, err := health.Parse(c.Health)
	switch {
	case err != nil:
		return err
	case check.Kind == health.Command:
		return fmt.Errorf("health %q: tcp, http, https and grpc are allowed", c.Health)
	case len(c.VIPs) == 0:
		return fmt.Errorf("health %q decides whether VIPs lead to the container, and there are none", c.Health)
	}
	return nil
}

// fixed reads the addresses that the container shall have. The length behind one, which some runtimes
// write, is the network's to say.
func fixed(lists ...[]string) (addrs []netip.Addr, err error) {
	for _, text := range slices.Concat(lists...) {
		bare, _, _ := strings.Cut(text, "/")
		addr, err := netip.ParseAddr(bare)
		if err != nil {
			return nil, fmt.Errorf("ips %q: ADDRESS or ADDRESS/LENGTH is allowed, such as 9.0.0.7", text)
		}
		if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs, nil
}

// parseArgs reads CNI_ARGS: KEY=VALUE;KEY=VALUE. Values may hold '='; keys that mean nothing here are
// somebody else's.
func parseArgs(text string) (map[string]string, error) {
	given := make(map[string]string)
	for pair := range strings.SplitSeq(text, ";") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok && pair != "" {
			return nil, fmt.Errorf("CNI_ARGS %q: %q has no '='; KEY=VALUE;KEY=VALUE is allowed", text, pair)
		}
		given[key] = value
	}
	return given, nil
}

func list(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

// idPrefix begins the ids of all attachments of a network configuration.
func (c config) idPrefix() string { return "cni/" + c.Name + "/" }

// id names the attachment, and the task: a container that joins two networks is two tasks, each with
// VIPs and a name of its own. Neither names nor container ids hold a slash.
func (c config) id() string { return c.idPrefix() + c.container + "/" + c.ifname }
