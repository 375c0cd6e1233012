// SPDX-License-Identifier: Apache-2.0

package walk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weft/bpf/bpftest"
	"weft/bpf/row"
	client "weft/cmd/weft/node"
	"weft/control/controlpb"
	"weft/overlay"
	"weft/tests/lab"
)

// masterPort is where a lab's masters answer.
const masterPort = "7700"

// node is a host of the lab, with namespaces for tasks.
type node struct {
	host   *lab.Host
	daemon *client.Daemon
	spaces []*space
}

// space is a network namespace that tasks have one after the other.
type space struct {
	path string
	used bool
}

func newWalker(t *testing.T, l *lab.Lab, r *rand.Rand) *walker {
	t.Helper()
	w := &walker{Rand: r, t: t, lab: l, agreed: make(map[string]int), counts: make(map[string]int), took: make(map[string]time.Duration)}
	for _, h := range l.Hosts {
		d, err := client.DialPatient(h.Socket())
		if err != nil {
			t.Fatal(err)
		}
		n := &node{host: h, daemon: d}
		for range maxTasks {
			n.spaces = append(n.spaces, newSpace(t))
		}
		t.Cleanup(func() { _ = d.Close() }) // nothing is lost with it
		w.nodes = append(w.nodes, n)
	}
	m := l.Masters[0]
	conn, err := grpc.NewClient("passthrough:"+net.JoinHostPort(m.Addr.String(), masterPort),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (conn net.Conn, err error) {
			inside := m.In(func() error {
				conn, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
				return err
			})
			return conn, inside
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	w.control = controlpb.NewClient(conn)
	return w
}

// newSpace is the namespace of a process that sleeps as long as the test.
func newSpace(t *testing.T) *space {
	t.Helper()
	sleep := exec.Command("sleep", "infinity")
	sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait() // says that it was killed
	})
	return &space{path: "/proc/" + strconv.Itoa(sleep.Process.Pid) + "/ns/net"}
}

func (n *node) free() *space {
	for _, s := range n.spaces {
		if !s.used {
			return s
		}
	}
	return nil
}

// attach asks until the node has heard of the network and the groups.
func (n *node) attach(ctx context.Context, a overlay.Attachment) (overlay.Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	for {
		e, err := n.daemon.Overlay.Attach(ctx, a)
		if err == nil || !errors.Is(err, overlay.ErrNotFound) || ctx.Err() != nil {
			return e, err
		}
		time.Sleep(5 * time.Millisecond) // the facts are on their way
	}
}

// why asks the daemon of the receiver's node.
func (q question) why(ctx context.Context) (string, error) {
	v, err := q.dst.on.daemon.Overlay.Explain(ctx, overlay.Question{
		Source: q.from.String(), Destination: q.to.String(), Network: q.dst.in.Name, Protocol: q.proto, Port: q.port,
	})
	return v.Reason, err
}

var protocols = map[string]uint8{"tcp": bpftest.TCP, "udp": bpftest.UDP, "icmp": bpftest.ICMP}

// kernel runs the pinned program that meets the packet on the receiver's node, and reports whether it comes
// to the reason given.
func (q question) kernel(sport uint16, reason string) (agrees bool, err error) {
	want := row.ReasonNone
	for r := range row.ReasonMax {
		if r.String() == reason {
			want = r
		}
	}
	if reason == "from_host" { // what Explain says of the world, where nodes forward
		want = row.ReasonDelivered
	}
	p := bpftest.Packet{
		Src: q.from, Dst: q.to, Proto: protocols[q.proto], SPort: sport, DPort: q.port, Flags: bpftest.SYN, ICMPType: 8,
		ICMPRest: [4]byte{byte(sport >> 8), byte(sport)}, Frag: bpftest.DontFragment,
	}
	if q.to.Is6() && q.proto == "icmp" {
		p.Proto, p.ICMPType = bpftest.ICMPv6, 128
	}
	err = q.dst.on.host.In(func() error {
		link, err := net.InterfaceByName(q.dst.HostInterface)
		if err != nil {
			return err
		}
		var frame []byte
		program, pin, meta := "from_underlay", "*-from_underlay", bpftest.Meta{}
		switch {
		case q.src == nil:
			program, meta = "to_workload", bpftest.Meta{Ifindex: uint32(link.Index), Ingress: 1}
			pin, frame = fmt.Sprintf("%d-to_workload", link.Index), p.Bytes()
		case q.src.on == q.dst.on:
			from, err := net.InterfaceByName(q.src.HostInterface)
			if err != nil {
				return err
			}
			p.SrcMAC = bpftest.MAC(q.src.HardwareAddr())
			program, meta = "from_workload", bpftest.Meta{Ifindex: uint32(from.Index)}
			pin, frame = fmt.Sprintf("%d-from_workload", from.Index), p.Bytes()
		default:
			outer := bpftest.Packet{Src: q.src.on.host.Addr, Dst: q.dst.on.host.Addr, SPort: sport, NoSum: true}
			frame = bpftest.Tunnel{Outer: outer, VNI: uint32(q.dst.VNI), Policy: uint16(q.src.Identity)}.Wrap(p.Bytes())
		}
		agrees, err = runPinned(q.dst.on.host.Pins(), pin, program, frame, meta, want)
		return err
	})
	return agrees, err
}

// runPinned runs a program by its pinned link, and reports whether the reason was counted.
func runPinned(pins, pin, program string, frame []byte, meta bpftest.Meta, want row.Reason) (counted bool, err error) {
	layout := filepath.Join(pins, fmt.Sprintf("v%d", row.LayoutVersion))
	paths, err := filepath.Glob(filepath.Join(layout, "link", pin))
	if err != nil || len(paths) != 1 {
		return false, errors.Join(err, fmt.Errorf("links %s are %v, want one", pin, paths))
	}
	l, err := link.LoadPinnedLink(paths[0], nil)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	p, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	counters, err := ebpf.LoadPinnedMap(filepath.Join(layout, "counters"), nil)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, counters.Close()) }()
	set := &bpftest.Set{Programs: map[string]*ebpf.Program{program: p}, Maps: map[string]*ebpf.Map{"counters": counters}}
	before, err := set.Counter(want)
	if err != nil {
		return false, err
	}
	result, err := set.RunUncounted(program, frame, meta)
	if err != nil {
		return false, err
	}
	after, err := set.Counter(want)
	dropped := result.Action == bpftest.Drop
	return after.Packets > before.Packets && dropped == want.Drop(), err
}
