// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/bpf"
	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/tests/lab/owned"
)

// TestLive runs a node for real: programs, maps, links and firewall, in a network namespace of its own,
// as the whole process' namespace, like the daemon's.
func TestLive(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("root is needed")
		}
		t.Skip("root is needed to make network namespaces and load programs")
	}
	if os.Getenv("WEFT_LIVE") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLive$", "-test.v", "-test.timeout=120s")
		cmd.Env = append(os.Environ(), "WEFT_LIVE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID}
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	// Tasks end with this process, which is the first of its PID namespace, whatever happens to it.
	must(t, errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("proc", "/proc", "proc", 0, "")))
	l := newLive(t)
	t.Run("GroupsDecide", l.groupsDecide)
	t.Run("RulesDecide", l.rulesDecide)
	t.Run("DropsAreReported", l.dropsAreReported)
	t.Run("NothingIsLostOverARestart", l.nothingIsLost)
	t.Run("AnEndedTaskIsDetachedAtOnce", l.endedTask)
	t.Run("ANetworkGoesAtRunTime", l.networkGoes)
	l.stop()
	_, err := l.set.Remove(t.Context())
	must(t, errors.Join(l.plane.Remove(), err))
	links, err := apply.Links{}.List(t.Context())
	if err != nil || len(links) != 0 {
		t.Errorf("got links %v, %v, want none", links, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a node with real effects.
type host struct {
	dir     string
	masters *masters
	under   apply.Underlay
	set     *apply.Host
	plane   *bpf.Plane
	engine  *Engine
	stop    func()
	tasks   map[string]*exec.Cmd
	ends    map[string]overlay.Endpoint
}

func newLive(t *testing.T) *host {
	t.Helper()
	for _, args := range []string{
		"link set lo up", "link add under0 type veth peer name under1", "addr add 10.9.0.1/24 dev under0", "link set under0 up",
		"link set under1 up",
	} {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	dir, err := owned.Folder(os.TempDir(), "weft-engine.", removeHost)
	must(t, err)
	l := &host{dir: dir, tasks: make(map[string]*exec.Cmd), ends: make(map[string]overlay.Endpoint)}
	l.under, err = apply.FindUnderlay("under0", false)
	must(t, err)
	l.start(t)
	t.Cleanup(func() {
		l.stop()
		for _, cmd := range l.tasks {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		must(t, removeHost(l.dir))
	})
	for i, a := range []overlay.Attachment{
		task("web-1", "prod", "web"), task("web-2", "prod", "web"), task("db-1", "prod", "db"), task("dev-1", "dev", "web"),
	} {
		l.run(t, a, i)
	}
	return l
}

// removeHost removes what a host keeps on disk and in bpffs.
func removeHost(dir string) error {
	err := unix.Unmount(filepath.Join(dir, "pin"), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return os.RemoveAll(dir)
}

// start starts the daemon, or what would be it.
func (l *host) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	store, err := state.Open(state.Options{Self: string(self), Dir: filepath.Join(l.dir, "state")})
	must(t, err)
	if l.masters == nil {
		l.masters = newMasters(store)
	}
	l.masters.store = store
	l.set, err = apply.NewHost(apply.HostOptions{Underlay: l.under, Dir: filepath.Join(l.dir, "host")})
	must(t, err)
	tunnel, _, err := l.set.Ensure(ctx)
	must(t, err)
	l.plane, err = bpf.Open(bpf.Options{Pin: filepath.Join(l.dir, "pin"), Classic: apply.Classic{}, Config: bpf.Config{
		NodeAddr: l.under.Addr, Underlay: l.under.Ifindex, Tunnel: tunnel, TunnelPort: apply.DefaultPort, EventsPerSecond: 100,
		DNS4: netip.MustParseAddr(apply.NameServer4), DNS6: netip.MustParseAddr(apply.NameServer6),
	}})
	must(t, err)
	must(t, errors.Join(l.plane.AttachUnderlay(l.under.Ifindex), l.plane.AttachTunnel(tunnel)))
	_, err = l.plane.Sweep()
	must(t, err)
	tables := l.plane.Tables()
	l.engine, err = New(Options{
		Node: self, Underlay: l.under, Rows: store, Attacher: l.plane, Host: l.set, Source: l.plane,
		Links: apply.Links{Node4: l.under.Addr, Node6: netip.MustParseAddr(apply.NameServer6)},
		Tables: apply.Tables{
			Workloads: tables.Workloads, Endpoints: tables.Endpoints, Blocks: tables.Blocks, Prefixes: tables.Prefixes,
			VTEPs: tables.VTEPs, Verdicts: tables.Verdicts, Clauses: tables.Clauses, Sources: tables.Sources, Spaces: tables.Spaces, Openings: tables.Openings,
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	must(t, err)
	ended := make(chan error, 2)
	go func() { ended <- l.engine.Run(ctx) }()
	go func() { l.masters.run(ctx); ended <- nil }()
	_, err = l.engine.Endpoints(ctx)
	must(t, err)
	plane := l.plane
	stopped := false
	l.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		must(t, errors.Join(<-ended, <-ended, plane.Close(), store.Close()))
	}
}

// run starts a task's process and attaches it.
func (l *host) run(t *testing.T, a overlay.Attachment, i int) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	must(t, cmd.Start())
	l.tasks[a.ID] = cmd
	a.NetNS = fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	if i%2 == 0 { // the others are seen to end by their links
		a.OwnerPID = cmd.Process.Pid
	}
	before := time.Now()
	e, err := l.engine.Attach(t.Context(), a)
	must(t, err)
	t.Logf("attached %s as %v in %v", a.ID, e.Addrs(), time.Since(before))
	l.ends[a.ID] = e
}

// in runs f on a thread in a task's namespace, and leaves it again: the process' first thread never
// ends, and would keep the namespace.
func (l *host) in(t *testing.T, id string, f func() error) {
	t.Helper()
	ns, err := os.Open(l.ends[id].NetNS)
	must(t, err)
	own, err := os.Open("/proc/self/ns/net")
	must(t, err)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	must(t, unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
	failed := f()
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err)
	}
	must(t, errors.Join(failed, ns.Close(), own.Close()))
}

// patience is how long what must come may take; doubt is how long what must not come is waited for.
const patience, doubt = 10 * time.Second, 700 * time.Millisecond

// connects tells whether a TCP connection from a task (empty: the node) reaches an address of another.
func (l *host) connects(t *testing.T, from, to string, addr netip.Addr, port uint16, wait time.Duration) bool {
	t.Helper()
	at := netip.AddrPortFrom(addr, port).String()
	var server net.Listener
	l.in(t, to, func() (err error) { server, err = net.Listen("tcp", at); return err })
	defer func() { must(t, server.Close()) }()
	var client net.Conn
	var failed error
	dial := func() error { client, failed = net.DialTimeout("tcp", at, wait); return nil }
	if from == "" {
		must(t, dial())
	} else {
		l.in(t, from, dial)
	}
	if failed != nil {
		return false
	}
	must(t, client.Close())
	return true
}

func (l *host) groupsDecide(t *testing.T) {
	for _, row := range []struct {
		from, to string
		want     bool
	}{{"web-1", "web-2", true}, {"web-1", "db-1", false}, {"db-1", "web-1", false}, {"dev-1", "web-1", false}, {"", "db-1", true}} {
		for _, addr := range l.ends[row.to].Addrs() {
			wait := doubt
			if row.want {
				wait = patience
			}
			if got := l.connects(t, row.from, row.to, addr, 80, wait); got != row.want {
				t.Errorf("%q to %q (%s): got %v, want %v", row.from, row.to, addr, got, row.want)
			}
		}
	}
}

func (l *host) rulesDecide(t *testing.T) {
	for _, addr := range l.ends["db-1"].Addrs() {
		if !l.connects(t, "web-1", "db-1", addr, 5432, patience) {
			t.Errorf("%s: rule 7 does not open tcp/5432", addr)
		}
	}
	v, err := l.engine.Explain(t.Context(), overlay.Question{Source: "web-1", Destination: "db-1", Protocol: "tcp", Port: 5432})
	if err != nil || !v.Allowed || v.Rule != 7 {
		t.Errorf("got %+v, %v", v, err)
	}
}

func (l *host) dropsAreReported(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	enough := errors.New("enough")
	reading := make(chan error, 1)
	var got overlay.Event
	go func() {
		reading <- l.engine.Events(ctx, overlay.Filter{}, func(e overlay.Event) error {
			if e.Drop && e.SourceTask == "web-1" && e.Destination.Port() == 81 {
				got = e
				return enough
			}
			return nil
		})
	}()
	for ctx.Err() == nil {
		l.connects(t, "web-1", "db-1", l.ends["db-1"].Addr4, 81, 100*time.Millisecond)
		select {
		case err := <-reading:
			if !errors.Is(err, enough) || got.Reason != "no_common_group" || got.DestTask != "db-1" || got.Network != "prod" ||
				got.Suggestion != "weft rule add prod --from web --to db --port tcp/81" || time.Since(got.Time) > patience {
				t.Errorf("got %+v, %v", got, err)
			}
			return
		default:
		}
	}
	t.Error("no event was seen")
}

// nothingIsLost restarts the daemon twice under numbered datagrams and counts them.
func (l *host) nothingIsLost(t *testing.T) {
	at := netip.AddrPortFrom(l.ends["web-2"].Addr4, 7000).String()
	var in net.PacketConn
	var out net.Conn
	// Room for all: a test that is not scheduled for a while loses none by itself.
	room := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
		return errors.Join(failed, err)
	}}
	l.in(t, "web-2", func() (err error) { in, err = room.ListenPacket(t.Context(), "udp", at); return err })
	l.in(t, "web-1", func() (err error) { out, err = net.Dial("udp", at); return err })
	var last uint64
	seen, counted := 0, make(chan struct{})
	go func() {
		defer close(counted)
		buf := make([]byte, 8)
		for {
			if _, _, err := in.ReadFrom(buf); err != nil {
				return
			}
			n := binary.BigEndian.Uint64(buf)
			if n == 0 {
				return
			}
			seen, last = seen+1, n
		}
	}()
	sent, stop, done := uint64(0), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Microsecond)
		defer tick.Stop()
		buf := make([]byte, 8)
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				sent++
				binary.BigEndian.PutUint64(buf, sent)
				if _, err := out.Write(buf); err != nil {
					t.Errorf("send: %v", err)
					return
				}
			}
		}
	}()
	before, links := l.ends["web-1"], 0
	for range 2 {
		l.stop()
		l.start(t)
	}
	close(stop)
	<-done
	_, err := out.Write(make([]byte, 8)) // the end
	must(t, err)
	must(t, in.SetDeadline(time.Now().Add(patience)))
	<-counted
	must(t, errors.Join(in.Close(), out.Close()))
	t.Logf("%d sent, %d seen, over two restarts", sent, seen)
	if uint64(seen) != sent || last != sent || sent < 100 {
		t.Errorf("got %d of %d datagrams, the last %d", seen, sent, last)
	}
	list, err := l.engine.Endpoints(t.Context())
	must(t, err)
	for _, e := range list {
		if e.ID == "web-1" && e.Since.Equal(before.Since) {
			links++
		}
	}
	if len(list) != 4 || links != 1 {
		t.Errorf("got %d endpoints, want the 4 as they were", len(list))
	}
}

func (l *host) endedTask(t *testing.T) {
	for _, id := range []string{"db-1", "web-2"} { // by owner, by link
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		snapshots := l.engine.Watch(ctx)
		before := len(<-snapshots)
		began := time.Now()
		must(t, l.tasks[id].Process.Kill())
		_ = l.tasks[id].Wait()
		for list := range snapshots {
			if len(list) < before {
				break
			}
		}
		took := time.Since(began)
		if ctx.Err() != nil {
			t.Errorf("%s was not detached", id)
		}
		t.Logf("%s seen to end after %v", id, took)
		cancel()
		for range snapshots {
		}
		delete(l.tasks, id)
	}
}

func (l *host) networkGoes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	snapshots := l.engine.Watch(ctx)
	l.masters.withdraw(func(r discovery.Row) bool {
		return strings.HasPrefix(r.Key, "dev") || strings.HasPrefix(r.Key, "9.1.")
	})
	for list := range snapshots {
		if len(list) == 1 && list[0].ID == "web-1" {
			break
		}
	}
	if ctx.Err() != nil {
		t.Error("dev-1 is still there")
	}
	cancel()
	for range snapshots {
	}
	// Its task keeps running, without a network.
	if err := l.tasks["dev-1"].Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the task of a removed network: %v", err)
	}
	must(t, l.engine.Detach(t.Context(), "web-1"))
}
