// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/agent/sandbox"
	"weft/cmd/weft/node"
	"weft/cmd/weft/process"
	"weft/cmd/weft/show"
)

// Options of a node daemon; Command fills them from flags.
type Options struct {
	Node                 string   // id; default the host name's first label
	Zone                 string   // failure zone, for VIPs that prefer their own; empty: none
	State                string   // folder on disk
	Socket               string   // unix socket for clients of this node
	Pin                  string   // folder of bpffs
	Cgroup               string   // cgroup2 folder; processes below it see VIPs at connect time
	sockets              string   // where that is done, if elsewhere: for all processes, those of the node itself too
	Underlay             string   // interface; default that of the default route
	Edge                 []string // interfaces that clients outside come in by; none: this node is no edge
	Neighbours           bool     // tell the neighbours of Edge where published addresses are
	BGP                  uint32   // autonomous system of this node
	BGPPeers             []string // ADDRESS=AS; none: routers are not told
	BGPPassword          string   // file; empty: none
	Underlay6            bool     // tunnels over IPv6 though it has an IPv4 address
	Masters              []string
	Join                 []string
	Port                 uint16 // TCP, where peers stream rows
	Gossip               uint16
	Tunnel               uint16   // UDP
	Tunnel2              uint16   // UDP; 0: none
	Metrics              string   // address:port of Prometheus metrics; empty: none
	HTTP                 string   // address:port of the pages of names, VIPs and nodes; empty: none
	MesosHTTP            string   // address:port of the pages of Mesos-DNS; empty: none
	DNS                  []string // address:port where names are answered besides
	dns                  []netip.AddrPort
	Resolvers            []string
	Names                string // file of static records and forwarded zones; empty: none
	SecretFile           string
	SlowEncap, SlowDecap bool
	Events               uint32
	Preset               string // process.Presets
	DCOS                 string // address:port of DC/OS' document; empty: none
	Debug                bool
	Version              string
}

// Defaults returns the options of a node that needs no flags but its masters.
func Defaults() Options {
	return Options{
		State: "/var/lib/weft/netd", Socket: node.DefaultSocket, Pin: "/sys/fs/bpf/weft",
		Port: 7701, Gossip: 7946, Tunnel: 4789, Metrics: "127.0.0.1:7780", HTTP: "127.0.0.1:62080", MesosHTTP: "127.0.0.1:8123", Events: 100,
	}
}

// Command returns `weft netd`.
func Command(env node.Env, version string) *cobra.Command {
	o := Defaults()
	o.Version = version
	cmd := &cobra.Command{
		Use:   "netd",
		Short: "the node daemon: virtual networks, VIPs and names of this node",
		Long: "Netd loads the packet path and keeps it equal to what masters and other nodes say. What it made goes on\n" +
			"while it is away: packets, VIPs and names. It starts from its own disk, with or without masters.",
		Example: "  weft netd --master 10.0.0.1:7700\n  weft netd --master 10.0.0.1:7700 --join 10.0.0.1 --underlay eth1",
		Args:    show.Args(0, 0),
	}
	f := cmd.Flags()
	f.StringVar(&o.Node, "node", "", "id of this node, a DNS label (default: the host name)")
	f.StringVar(&o.Zone, "zone", "", "failure zone of this node, for VIPs that prefer backends of their own")
	o.placeFlags(f)
	f.BoolVar(&o.Underlay6, "underlay-ipv6", false, "run tunnels over IPv6, also where the interface has an IPv4 address; the same on all nodes")
	f.StringVar(&o.Underlay, "underlay", "", "interface that reaches the other nodes (default: that of the default route)")
	edgeFlags(cmd, &o)
	f.StringArrayVar(&o.Masters, "master", nil, "host:port of a master (repeatable)")
	f.StringArrayVar(&o.Join, "join", nil, "address of a member to join; masters are joined anyway (repeatable)")
	f.Uint16Var(&o.Port, "port", o.Port, "TCP port where peers exchange rows")
	f.Uint16Var(&o.Gossip, "gossip-port", o.Gossip, "TCP and UDP port of membership")
	o.tunnelFlags(f)
	f.StringVar(&o.Metrics, "metrics", o.Metrics, "address of the Prometheus metrics; empty: none")
	f.StringVar(&o.HTTP, "http", o.HTTP, "address of the pages of names, VIPs and nodes, as dcos-net has them; empty: none")
	f.StringVar(&o.MesosHTTP, "mesos-dns-http", o.MesosHTTP, "address of the pages of Mesos-DNS; empty: none")
	f.StringArrayVar(&o.DNS, "dns", nil, "address:port of the host where names are answered too (repeatable), such as 127.0.0.1:61053 on masters of DC/OS")
	f.StringArrayVar(&o.Resolvers, "resolver", nil, "address[:port] that answers foreign names (repeatable; default: the host's)")
	f.StringVar(&o.Names, "names", "", "file of static records, zones and who answers for foreign ones (docs/dns-operations.md)")
	f.StringVar(&o.SecretFile, "secret-file", "", "file with the cluster's secret: membership is encrypted, rows only from who knows it")
	f.Uint32Var(&o.Events, "events", o.Events, "reported packets per second, CPU and reason")
	f.StringVar(&o.Preset, "preset", "", "dcos: as DC/OS' agents are, see docs/dcos.md")
	f.StringVar(&o.DCOS, "dcos", "", "address that answers /overlay-agent/overlay; empty: none (preset dcos: :5051)")
	f.BoolVar(&o.Debug, "debug", false, "log more")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.preset(f.Changed)
		if err := o.Complete(); err != nil {
			return fmt.Errorf("%w: %w", show.ErrUsage, err)
		}
		return Run(cmd.Context(), o, process.Log(env.Stderr, o.Debug))
	}
	cmd.AddCommand(uninstallCommand(env))
	return cmd
}

// placeFlags say where a node daemon keeps things.
func (o *Options) placeFlags(f *pflag.FlagSet) {
	f.StringVar(&o.State, "state", o.State, "folder of what must survive a restart")
	f.StringVar(&o.Socket, "socket", o.Socket, "unix socket for clients on this node")
	f.StringVar(&o.Pin, "pin", o.Pin, "folder of bpffs for what must survive the daemon (mounted if it is none)")
	f.StringVar(&o.Cgroup, "cgroup", "", "cgroup2 folder whose processes see VIPs when they connect (default: all, and weft in the unified hierarchy for tasks)")
}

// preset sets what the preset says and no flag does.
func (o *Options) preset(given func(flag string) bool) {
	if o.Preset != process.PresetDCOS {
		return
	}
	if !given("tunnel-port") {
		o.Tunnel = process.TunnelDCOS
	}
	if !given("dcos") {
		o.DCOS = ":5051"
	}
}

func (o *Options) tunnelFlags(f *pflag.FlagSet) {
	f.Uint16Var(&o.Tunnel, "tunnel-port", o.Tunnel, "UDP port of tunnel frames, the same on every node")
	f.Uint16Var(&o.Tunnel2, "tunnel-port-2", 0, "UDP port for nodes that --tunnel-port does not reach, the same on every node; 0: none")
	f.BoolVar(&o.SlowEncap, "slow-encap", false, "leave encapsulation to the kernel's VXLAN device")
	f.BoolVar(&o.SlowDecap, "slow-decap", false, "leave decapsulation to the kernel's VXLAN device")
}

// Complete fills in what depends on the machine and joins every problem.
func (o *Options) Complete() error {
	ports := map[string]uint16{"port": o.Port, "gossip-port": o.Gossip, "tunnel-port": o.Tunnel}
	errs := []error{process.CheckPreset(o.Preset), process.CheckPorts(ports), o.checkEdge()}
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("netd needs root: it loads BPF programs and makes links"))
	}
	if o.Node == "" {
		name, err := os.Hostname()
		errs = append(errs, err)
		o.Node, _, _ = strings.Cut(strings.ToLower(name), ".")
	}
	if o.Cgroup == "" {
		path, err := sandbox.CgroupRoot()
		errs = append(errs, err)
		o.Cgroup, o.sockets = filepath.Join(path, "weft"), path
	}
	for _, m := range o.Masters {
		host, _, ok := strings.Cut(m, ":")
		if a, err := netip.ParseAddrPort(m); err == nil {
			o.Join = append(o.Join, a.Addr().String())
		} else if ok && host != "" {
			o.Join = append(o.Join, host)
		} else {
			errs = append(errs, fmt.Errorf("master is %q: HOST:PORT is allowed, for example 10.0.0.1:7700", m))
		}
	}
	for _, text := range o.DNS {
		a, err := netip.ParseAddrPort(text)
		if err != nil || a.Port() == 0 {
			errs = append(errs, fmt.Errorf("dns is %q: ADDRESS:PORT is allowed, for example 127.0.0.1:61053", text))
		}
		o.dns = append(o.dns, a)
	}
	return errors.Join(errs...)
}
