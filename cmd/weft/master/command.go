// SPDX-License-Identifier: Apache-2.0

package master

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"weft/cmd/weft/node"
	"weft/cmd/weft/process"
	"weft/cmd/weft/show"
)

// Options of a master; Command fills them from flags.
type Options struct {
	ID         string
	State      string // folder on disk
	Addr       string // where nodes, operators and other masters reach it
	Port       uint16 // gRPC
	HTTP       uint16 // JSON; 0: none
	EtcdPort   uint16 // between masters
	Peers      []string
	Etcd       []string // an existing cluster
	Join       []string
	Gossip     uint16
	Metrics    string
	SecretFile string
	Preset     string // process.Presets
	DCOS       string // address:port of DC/OS' documents; empty: none
	Debug      bool

	addr  netip.Addr
	peers map[string]string
}

// Defaults returns the options of a master that needs no flags but its address.
func Defaults() Options {
	return Options{State: "/var/lib/weft/master", Port: 7700, HTTP: 7702, EtcdPort: 7710, Gossip: 7946, Metrics: "127.0.0.1:7781"}
}

// Command returns `weft master`.
func Command(env node.Env, _ string) *cobra.Command {
	o := Defaults()
	cmd := &cobra.Command{
		Use:   "master",
		Short: "a master: networks, groups, rules, address blocks and VIP addresses of the cluster",
		Long: "Master keeps what operators declare and what is given to nodes, in an embedded etcd or an existing one.\n" +
			"Nodes go on without it; what it alone can do is give something new.",
		Example: "  weft master --addr 10.0.0.1\n" +
			"  weft master --id a --addr 10.0.0.1 --peer a=10.0.0.1:7710 --peer b=10.0.0.2:7710 --peer c=10.0.0.3:7710\n" +
			"  weft master --addr 10.0.0.1 --etcd 10.0.0.9:2379",
		Args: show.Args(0, 0),
	}
	f := cmd.Flags()
	f.StringVar(&o.ID, "id", "", "id of this master (default: the host name)")
	f.StringVar(&o.State, "state", o.State, "folder of the embedded etcd")
	f.StringVar(&o.Addr, "addr", "", "address that nodes and other masters reach it at (required)")
	f.Uint16Var(&o.Port, "port", o.Port, "TCP port for nodes and operators (gRPC)")
	f.Uint16Var(&o.HTTP, "http-port", o.HTTP, "TCP port for JSON over HTTP; 0: none")
	f.Uint16Var(&o.EtcdPort, "etcd-port", o.EtcdPort, "TCP port between masters")
	f.StringArrayVar(&o.Peers, "peer", nil, "ID=HOST:PORT of every master, this one too; for three or five of them (repeatable)")
	f.StringArrayVar(&o.Etcd, "etcd", nil, "host:port of an existing etcd cluster, instead of the embedded one (repeatable)")
	f.StringArrayVar(&o.Join, "join", nil, "address of another member (repeatable)")
	f.Uint16Var(&o.Gossip, "gossip-port", o.Gossip, "TCP and UDP port of membership")
	f.StringVar(&o.Metrics, "metrics", o.Metrics, "address of the Prometheus metrics; empty: none")
	f.StringVar(&o.SecretFile, "secret-file", "", "file with the cluster's secret; see weft netd")
	f.StringVar(&o.Preset, "preset", "", "dcos: as DC/OS' masters are, see docs/dcos.md")
	f.StringVar(&o.DCOS, "dcos", "", "address that answers /overlay-master/state and agents/delete; empty: none (preset dcos: :5050)")
	f.BoolVar(&o.Debug, "debug", false, "log more")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Preset == process.PresetDCOS && !f.Changed("dcos") {
			o.DCOS = ":5050"
		}
		if err := o.Complete(); err != nil {
			return fmt.Errorf("%w: %w", show.ErrUsage, err)
		}
		return Run(cmd.Context(), o, process.Log(env.Stderr, o.Debug))
	}
	return cmd
}

// Complete fills in what depends on the machine and joins every problem.
func (o *Options) Complete() error {
	ports := map[string]uint16{"port": o.Port, "etcd-port": o.EtcdPort, "gossip-port": o.Gossip}
	errs := []error{process.CheckPreset(o.Preset), process.CheckPorts(ports)}
	var err error
	if o.addr, err = netip.ParseAddr(o.Addr); err != nil {
		errs = append(errs, fmt.Errorf("addr is %q: an IP address that the nodes reach is needed", o.Addr))
	}
	if o.ID == "" {
		name, err := os.Hostname()
		errs = append(errs, err)
		o.ID, _, _ = strings.Cut(strings.ToLower(name), ".")
	}
	o.peers = make(map[string]string)
	for _, p := range o.Peers {
		id, addr, ok := strings.Cut(p, "=")
		if _, _, err := net.SplitHostPort(addr); !ok || id == "" || err != nil {
			errs = append(errs, fmt.Errorf("peer is %q: ID=HOST:PORT is allowed, for example a=10.0.0.1:7710", p))
			continue
		}
		o.peers[id] = addr
		host, _, _ := net.SplitHostPort(addr)
		o.Join = append(o.Join, host)
	}
	if len(o.peers) == 1 {
		clear(o.peers) // one master is alone, whether it says so or not
	}
	return errors.Join(errs...)
}
