// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/agent/health"
	"weft/agent/sandbox"
	"weft/cmd/weft/show"
	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/lb"
	"weft/overlay"
)

// Framework is what tasks without a scheduler belong to: web.weft.mesos.
const Framework = "weft"

// ExitError is how the command of `weft run` or `weft task exec` ended.
type ExitError struct{ Code int }

func (e ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// wish is what the flags of `weft run` ask for.
type wish struct {
	name, cgroup string
	ports        []string
	joins        []membership

	id     string
	inHost bool                  // in the node's own network
	named  []discovery.NamedPort // ports, read
	health *health.Check
}

// running is a task of `weft run`.
type running struct {
	id     string
	daemon *Daemon
	task   *sandbox.Task
	out    io.Writer
	addr   netip.Addr // its first
	inHost bool       // and its node's, wherever that goes
	behind []behind
}

func (c *client) run() *cobra.Command {
	var w wish
	cmd := &cobra.Command{
		Use:   "run --network NET [flags] -- COMMAND [ARG...]",
		Short: "run a command as a task of this node, with an address of its own",
		Long: "Run starts COMMAND in a network namespace of its own, joined to a virtual network. Its address, groups,\n" +
			"VIPs and names live as long as it does. Run waits for it and ends with its exit status; when run is\n" +
			"killed, the task ends too.\n\n" +
			"On SIGTERM and SIGINT the task leaves its VIPs first: it gets the signal when no node opens connections to it\n" +
			"any more and none is open, or when the VIP's deadline is over (--vip ...,wait=2s); a second one goes to it at once.\n\n" +
			"With --network host the task is in its node's own network: at the node's addresses, behind VIPs of every network, in\n" +
			"no group. The VIP's port of the task is then one of the node, such as --vip /web:80=31000.\n\n" +
			"With several --network the task has an interface in each: eth0 in the first, with the default route, the\n" +
			"name server and the VIPs that it sees; eth1 and so on in the others. The flags --group, --ip, --vip and\n" +
			"--publish are of the network named before them.",
		Example: "  weft run --network prod --group web --name web --vip /web:80=8080 -- httpd -p 8080\n" +
			"  weft run --network prod --group db --name db --port pg=tcp/5432 -- postgres\n" +
			"  weft run --network prod --publish 8080:80 -- httpd -p 80\n" +
			"  weft run --network prod --group web --network dev --group tools -- sleep 1000\n" +
			"  weft run --network host --vip /web:80=31000 --health http:31000 -- httpd -p 31000",
		Args: show.Args(1, show.Many),
	}
	cmd.Flags().Var(flag(w.join), "network", "virtual network to join, or host for the node's own (required; repeatable)")
	cmd.Flags().Var(flag(w.group), "group", "address group of the task (repeatable)")
	cmd.Flags().StringVar(&w.name, "name", "", "name of the task, a DNS label: NAME.weft.mesos (default: the command's)")
	cmd.Flags().Var(flag(w.publish), "publish", "port of the node that leads to one of the task: [HOST_IP:]HOST_PORT:PORT[/tcp|udp] (repeatable)")
	cmd.Flags().Var(flag(w.ip), "ip", "address that the task shall have, one of a family (repeatable; default: the lowest that is free)")
	cmd.Flags().Var(flag(w.vip), "vip", "VIP and the task's own port behind it: /web:80=8080, with /tcp or /udp for one protocol only (repeatable)")
	cmd.Flags().Var(flag(w.readHealth), "health", "check of the task, to which VIPs and short names lead while it succeeds: tcp:PORT, http[s]:PORT[/PATH],\n"+
		"grpc:PORT[/SERVICE] or command:COMMAND, with ,interval=2s ,timeout=1s ,healthy=1 ,unhealthy=3 ,grace=10s")
	cmd.Flags().StringArrayVar(&w.ports, "port", nil, "port for SRV records: [NAME=]tcp/8080 (repeatable; VIP ports have one anyway)")
	cmd.Flags().StringVar(&w.cgroup, "cgroup", c.env.Getenv("WEFT_CGROUP"), "cgroup2 folder for the task (WEFT_CGROUP; default: the daemon's)")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		if w.name == "" {
			w.name = cmp.Or(dnsname.Label(filepath.Base(args[0])), "task")
		}
		return c.runTask(ctx, d, w, args)
	}, patient()...)
}

// runTask goes through a task's life:
//
//  1. sandbox: the process is there, in its namespaces, and waits
//  2. attach:  it has an address
//  3. announce, publish: names and VIPs lead to it
//  4. release: the command runs, and is checked
//  5. wait; a signal to end waits until the task is drained
//  6. withdraw in the reverse order
func (c *client) runTask(ctx context.Context, d *Daemon, w wish, command []string) (err error) {
	w.id = w.name + "-" + strings.ToLower(rand.Text()[:8])
	if w.named, err = parsePorts(w.ports); err != nil {
		return err
	}
	if err := w.validate(); err != nil {
		return err
	}
	if err := c.defaultCgroup(&w); err != nil {
		return err
	}
	// Signals go to the task, which decides; our end follows its end.
	ctx = context.WithoutCancel(ctx)
	signals := make(chan os.Signal, 4) // a few may come at once; more say nothing new
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(signals)
	spec := sandbox.Spec{
		ID: w.id, Command: command, Cgroup: w.cgroup, Hostname: w.name, HostNetwork: w.inHost,
		Stdio: [3]*os.File{c.env.Stdin, c.env.Stdout, c.env.Stderr},
	}
	if w.inHost {
		spec.Hostname = "" // what it does there it does in its node's name
	}
	task, err := sandbox.Start(ctx, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, task.Close()) }()
	var endpoints []overlay.Endpoint
	var behind []behind
	err = c.await(ctx, w.id, signals, func(ctx context.Context) (err error) {
		endpoints, behind, err = join(ctx, d, task, w)
		return err
	})
	if unanswered := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errInterrupted); unanswered {
		_ = leave(ctx, d, w, time.Second) // else the daemon finds out by the end of the process, when it is there
		return err
	}
	defer func() { err = errors.Join(err, leave(ctx, d, w, callTimeout)) }()
	if err != nil {
		return err
	}
	var addrs []netip.Addr
	for _, e := range endpoints {
		addrs = append(addrs, e.Addrs()...)
	}
	r := &running{id: w.id, daemon: d, task: task, out: c.env.Stderr, addr: addrs[0], inHost: w.inHost, behind: behind}
	fmt.Fprintf(c.env.Stderr, "weft: task %s is %s on %s\n", w.id, show.List(addrs), endpoints[0].Node)
	names := sandbox.Names{Servers: []netip.Addr{nameServer(endpoints[0])}, Search: w.search()}
	if err := task.Release(ctx, names); err != nil {
		return err
	}
	return r.attend(ctx, w.health, signals)
}

var errInterrupted = errors.New("a signal came first")

// tellAfter is how long a task waits for its daemon before it says so.
const tellAfter = 3 * time.Second

// await carries out f, which waits for a daemon, or a master behind it, that is away: it tells that, and a signal ends it.
func (c *client) await(ctx context.Context, id string, signals <-chan os.Signal, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = f(ctx)
	}()
	late := time.After(tellAfter)
	for {
		select {
		case <-done:
			return err
		case <-late:
			fmt.Fprintf(c.env.Stderr, "weft: task %s waits: the node daemon at %s, or a master that it asks, does not answer\n", id, c.socket)
		case s := <-signals:
			cancel()
			<-done // what it came to does not count any more
			return fmt.Errorf("task %s has not begun: %w: %s", id, errInterrupted, s)
		}
	}
}

// attend checks the task and hands it signals until it ends.
func (r *running) attend(ctx context.Context, check *health.Check, signals <-chan os.Signal) error {
	var watching, draining sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer draining.Wait()
	defer watching.Wait()
	defer cancel()
	checking, stopChecking := context.WithCancel(ctx)
	defer stopChecking()
	if check != nil {
		watching.Go(func() { r.watch(checking, *check) })
	}
	drained := make(chan os.Signal, 1) // there is one drain
	begun := false
	for {
		var now os.Signal
		select {
		case now = <-signals:
			if (now == unix.SIGTERM || now == unix.SIGINT) && !begun {
				begun = true
				stopChecking()
				draining.Go(func() {
					watching.Wait() // what a check says last does not undo the drain
					drain(ctx, r.daemon, r.out, r.task.PID, r.behind)
					drained <- now
				})
				continue
			}
		case now = <-drained:
		case <-r.task.Done():
			exit, err := r.task.Wait(ctx)
			if err == nil && exit != (sandbox.Exit{}) {
				err = ExitError{Code: exit.Status()}
			}
			return err
		}
		if err := r.task.Signal(now); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
}

// Where tasks ask for names; netd answers there.
const (
	nameServer4 = "198.51.100.1"
	nameServer6 = "fd01:d::c633:6401"
)

// nameServer is where a task asks that has this endpoint first: by that it reaches what is no network's. One is enough,
// both answer alike.
func nameServer(first overlay.Endpoint) netip.Addr {
	if first.InHost() || first.Addr4.IsValid() {
		return netip.MustParseAddr(nameServer4)
	}
	return netip.MustParseAddr(nameServer6)
}

// search makes `db` and `web` names of tasks of the first network, which is the one that names are asked from,
// then of all tasks, then of VIPs.
func (w *wish) search() []string {
	domains := []string{"weft.mesos", "weft.l4lb.thisdcos.directory"}
	if len(w.joins) > 0 && !w.inHost {
		domains = slices.Insert(domains, 0, w.joins[0].network+".weft")
	}
	return domains
}

// defaultCgroup is the folder that netd watches when nobody says otherwise.
func (c *client) defaultCgroup(w *wish) error {
	if w.cgroup != "" {
		return nil
	}
	top, err := sandbox.CgroupRoot()
	if err != nil {
		return err
	}
	w.cgroup = filepath.Join(top, "weft")
	return nil
}

// vipPorts gives the ports behind VIPs SRV records too.
func vipPorts(vips []lb.VIPStatus, task string) []discovery.NamedPort {
	var ports []discovery.NamedPort
	for _, v := range vips {
		for _, b := range v.Backends {
			if b.Task == task {
				ports = append(ports, discovery.NamedPort{Protocol: v.Protocol, Port: b.Port})
			}
		}
	}
	return ports
}

// parsePorts reads [NAME=]PROTOCOL/PORT.
func parsePorts(texts []string) ([]discovery.NamedPort, error) {
	var ports []discovery.NamedPort
	for _, text := range texts {
		name, service, ok := strings.Cut(text, "=")
		if !ok {
			name, service = "", text
		}
		protocol, number, _ := strings.Cut(service, "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || port == 0 || protocol != "tcp" && protocol != "udp" || dnsname.Label(name) != name {
			return nil, fmt.Errorf("%w: --port is %q: [NAME=]tcp/PORT or udp/PORT, 1 to 65535, are allowed, NAME of a-z, 0-9 and -", show.ErrUsage, text)
		}
		ports = append(ports, discovery.NamedPort{Name: name, Protocol: protocol, Port: uint16(port)})
	}
	return ports, nil
}
