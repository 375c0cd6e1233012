// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft/discovery"
)

// TestMain is also a member in a process of its own, which can be killed and frozen.
func TestMain(m *testing.M) {
	if id := os.Getenv("GOSSIP_TEST_MEMBER"); id != "" {
		os.Exit(memberProcess(id))
	}
	// A probe that was under way at Shutdown ends by itself, up to some seconds later.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

func memberProcess(id string) int {
	g, err := Open(Options{
		ID: discovery.NodeID(id), Bind: netip.MustParseAddr(os.Getenv("GOSSIP_TEST_BIND")), Port: testPort,
		Join: strings.Fields(os.Getenv("GOSSIP_TEST_JOIN")),
	})
	if err == nil {
		_, _ = os.Stdout.WriteString("up\n")
		err = g.Run(context.Background())
	}
	_, _ = os.Stdout.WriteString(err.Error() + "\n")
	return 1
}

const testPort = 17946

// spawn starts a member in a process of its own and ends it with the test.
func spawn(t *testing.T, id, bind string, join ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GOSSIP_TEST_MEMBER="+id, "GOSSIP_TEST_BIND="+bind, "GOSSIP_TEST_JOIN="+strings.Join(join, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("member process %s: %q, %v", id, line, err)
	}
	return cmd
}

type running struct {
	*Gossip
	stop context.CancelFunc
	done chan error
}

// start runs a member in this process and ends it with the test.
func start(t *testing.T, o Options) *running {
	t.Helper()
	if o.Port == 0 {
		o.Port = testPort
	}
	g, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{Gossip: g, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-r.done:
			if err != nil && !errors.Is(err, discovery.ErrConflict) {
				t.Errorf("run %s: %v", o.ID, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("run %s does not end", o.ID)
		}
		r.done <- nil
	})
	return r
}

// until waits for a state of the members and returns how long that took.
func until(t *testing.T, r *running, what string, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	deadline := time.After(limit)
	for {
		changed := r.Changed()
		if ok() {
			return time.Since(begin)
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: not within %v; members: %+v", what, limit, r.Members())
		}
	}
}

func at(n byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 71, n}) }

func seed(n byte) string { return netip.AddrPortFrom(at(n), testPort).String() }

func TestMasterAndNodeMayShareAnID(t *testing.T) {
	master := start(t, Options{ID: "x", Role: RoleMaster, Bind: at(81)})
	node := start(t, Options{ID: "x", Bind: at(82), Join: []string{seed(81)}})
	other := start(t, Options{ID: "b", Bind: at(83), Join: []string{seed(82)}})
	until(t, other, "both", 10*time.Second, func() bool { return len(other.Members()) == 3 && other.Alive("x") })
	until(t, master, "the node", 10*time.Second, func() bool { return master.Alive("x") })
	if got := node.Stats().Conflicts + master.Stats().Conflicts; got != 0 {
		t.Errorf("%d conflicts of two roles", got)
	}
	var got []string
	for _, m := range other.Members() {
		got = append(got, string(m.ID)+" "+string(m.Role))
	}
	if diff := cmp.Diff(got, []string{"b node", "x master", "x node"}); diff != "" {
		t.Errorf("members (-got +want):\n%s", diff)
	}
}

func TestMembersMeetAndTell(t *testing.T) {
	secret := []byte("s3cret")
	a := start(t, Options{ID: "a", Role: RoleMaster, Bind: at(1), Join: []string{seed(3)}, Secret: secret, Tags: map[string]string{"sync": "7000"}})
	b := start(t, Options{ID: "b", Bind: at(2), Join: []string{seed(1)}, Secret: secret})
	start(t, Options{ID: "c", Bind: at(3), Join: []string{seed(2)}, Secret: secret})
	until(t, b, "three members", 10*time.Second, func() bool { return len(b.Members()) == 3 && b.Alive("b") && b.Alive("c") })
	until(t, a, "three members", 10*time.Second, func() bool { return a.Alive("b") && a.Alive("c") })
	got := b.Members()
	for i := range got {
		if got[i].Since.IsZero() {
			t.Errorf("%s has no time of change", got[i].ID)
		}
		got[i].Since = time.Time{}
	}
	want := []Member{
		{ID: "a", Role: RoleMaster, Addr: netip.MustParseAddrPort(seed(1)), Tags: map[string]string{"sync": "7000"}, Alive: true},
		{ID: "b", Role: RoleNode, Addr: netip.MustParseAddrPort(seed(2)), Alive: true},
		{ID: "c", Role: RoleNode, Addr: netip.MustParseAddrPort(seed(3)), Tags: map[string]string{}, Alive: true},
	}
	if diff := cmp.Diff(got, want, cmp.Comparer(func(x, y netip.AddrPort) bool { return x == y })); diff != "" {
		t.Errorf("members (-got +want):\n%s", diff)
	}
	if b.Alive("nobody") {
		t.Error("an unknown member is alive")
	}
}

// A cluster changes its secret member by member: those who show the one and those who show the other are together, as
// long as both accept both.
func TestMembersOfTwoSecretsAreTogetherWhileBothAcceptBoth(t *testing.T) {
	one, two := []byte("the first secret"), []byte("the second secret")
	a := start(t, Options{ID: "a", Bind: at(21), Secret: one, Others: [][]byte{two}})
	b := start(t, Options{ID: "b", Bind: at(22), Secret: two, Others: [][]byte{one}, Join: []string{seed(21)}})
	until(t, a, "b is there", 10*time.Second, func() bool { return a.Alive("b") })
	until(t, b, "a is there", 10*time.Second, func() bool { return b.Alive("a") })
	d := start(t, Options{ID: "d", Bind: at(24), Secret: two, Others: [][]byte{one}, Join: []string{seed(22)}})
	until(t, d, "a is there", 10*time.Second, func() bool { return d.Alive("a") })
}

func TestOtherSecretIsNoMember(t *testing.T) {
	a := start(t, Options{ID: "a", Bind: at(11), Secret: []byte("one")})
	b := start(t, Options{ID: "b", Bind: at(12), Secret: []byte("two"), Join: []string{seed(11)}})
	c := start(t, Options{ID: "c", Bind: at(13), Join: []string{seed(11)}})
	d := start(t, Options{ID: "d", Bind: at(14), Secret: []byte("one"), Join: []string{seed(11)}})
	until(t, d, "the right secret", 10*time.Second, func() bool { return d.Alive("a") })
	// Each of them asked at least twice while d got in.
	deadline := time.After(10 * time.Second)
	poll := time.NewTicker(10 * time.Millisecond) // attempts are counted, not announced
	defer poll.Stop()
	for b.Stats().Joins < 2 || c.Stats().Joins < 2 {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("joins: %d, %d", b.Stats().Joins, c.Stats().Joins)
		}
	}
	for _, r := range []*running{a, d} {
		if r.Alive("b") || r.Alive("c") {
			t.Errorf("a member with another secret, or none, got in: %+v", r.Members())
		}
	}
}

// noKernel is that of a node whose power went.
func noKernel(context.Context, netip.Addr) bool { return false }

func TestKilledIsSeenDeadInTwoSeconds(t *testing.T) {
	a := start(t, Options{ID: "a", Bind: at(21), Echo: noKernel})
	b := start(t, Options{ID: "b", Bind: at(22), Join: []string{seed(21)}, Echo: noKernel})
	start(t, Options{ID: "c", Bind: at(23), Join: []string{seed(21)}, Echo: noKernel})
	for round := range 3 {
		victim := spawn(t, "d", at(24).String(), seed(21))
		for _, r := range []*running{a, b} {
			until(t, r, "four members", 10*time.Second, func() bool { return r.Alive("c") && r.Alive("d") })
		}
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		for _, r := range []*running{a, b} {
			until(t, r, "death of d", 10*time.Second, func() bool { return !r.Alive("d") })
			took := time.Since(killed)
			t.Logf("round %d: seen dead by %s after %v", round, r.o.ID, took.Round(10*time.Millisecond))
			if took > 4*time.Second {
				t.Errorf("seen dead after %v, want about 2 s", took)
			}
		}
		_ = victim.Wait()
	}
}

func TestFrozenDoesNotMakeOthersFlap(t *testing.T) {
	a := start(t, Options{ID: "a", Bind: at(31), Echo: noKernel})
	b := start(t, Options{ID: "b", Bind: at(32), Join: []string{seed(31)}, Echo: noKernel})
	c := start(t, Options{ID: "c", Bind: at(33), Join: []string{seed(31)}, Echo: noKernel})
	frozen := spawn(t, "d", at(34).String(), seed(31))
	all := []*running{a, b, c}
	for _, r := range all {
		until(t, r, "four members", 10*time.Second, func() bool {
			return r.Alive("a") && r.Alive("b") && r.Alive("c") && r.Alive("d")
		})
	}
	since := func() (times []time.Time) {
		for _, r := range all {
			for _, m := range r.Members() {
				if m.ID != "d" {
					times = append(times, m.Since)
				}
			}
		}
		return times
	}
	before := since()
	for range 2 {
		_ = frozen.Process.Signal(syscall.SIGSTOP)
		until(t, a, "frozen is dead", 10*time.Second, func() bool { return !a.Alive("d") })
		until(t, b, "frozen is dead", 10*time.Second, func() bool { return !b.Alive("d") })
		_ = frozen.Process.Signal(syscall.SIGCONT)
		until(t, a, "thawed is alive", 15*time.Second, func() bool { return a.Alive("d") })
		until(t, b, "thawed is alive", 15*time.Second, func() bool { return b.Alive("d") })
	}
	if diff := cmp.Diff(since(), before); diff != "" {
		t.Errorf("others changed while one was frozen (-got +want):\n%s", diff)
	}
}

// A process that hangs is no dead node as long as its kernel answers.
func TestSilentLivesAsLongAsItsKernelAnswers(t *testing.T) {
	var off atomic.Bool
	kernel := func(context.Context, netip.Addr) bool { return !off.Load() }
	a := start(t, Options{ID: "a", Bind: at(91), Echo: kernel})
	b := start(t, Options{ID: "b", Bind: at(92), Join: []string{seed(91)}, Echo: kernel})
	frozen := spawn(t, "d", at(93).String(), seed(91))
	both := []*running{a, b}
	since := func() (times []time.Time) {
		for _, r := range both {
			until(t, r, "three members", 10*time.Second, func() bool { return r.Alive("a") && r.Alive("b") && r.Alive("d") })
			for _, m := range r.Members() {
				times = append(times, m.Since)
			}
		}
		return times
	}
	silent := func(want int) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		poll := time.NewTicker(10 * time.Millisecond) // silence is no change of a member
		defer poll.Stop()
		for a.Stats().Silent != want || b.Stats().Silent != want {
			select {
			case <-poll.C:
			case <-deadline:
				t.Fatalf("%d and %d members are silent, want %d", a.Stats().Silent, b.Stats().Silent, want)
			}
		}
	}
	before := since()
	_ = frozen.Process.Signal(syscall.SIGSTOP)
	silent(1)
	_ = frozen.Process.Signal(syscall.SIGCONT)
	silent(0)
	if diff := cmp.Diff(since(), before); diff != "" {
		t.Errorf("members changed while one was frozen (-got +want):\n%s", diff)
	}
	_ = frozen.Process.Kill()
	silent(1)
	off.Store(true)
	for _, r := range both {
		until(t, r, "death of d", 5*time.Second, func() bool { return !r.Alive("d") && r.Dead("d") })
	}
	silent(0)
}

// person answers from the n-th time on that it is asked; 0: never.
type person struct {
	answers      int32
	asked, joins atomic.Int32
}

func (p *person) Ping(string, net.Addr) (time.Duration, error) {
	if asked := p.asked.Add(1); p.answers == 0 || asked < p.answers {
		return 0, errors.New("silence")
	}
	return 0, nil
}

func (p *person) Join([]string) (int, error) {
	p.joins.Add(1)
	return 1, nil
}

// doubted is a member's view in which another one is silent, in simulated time.
func doubted(t *testing.T, p *person, kernel func() bool) (*Gossip, Member) {
	t.Helper()
	g, err := Open(Options{ID: "a", Bind: at(95), Echo: func(context.Context, netip.Addr) bool { return kernel() }})
	if err != nil {
		t.Fatal(err)
	}
	m := Member{ID: "b", Role: RoleNode, Addr: netip.AddrPortFrom(at(96), testPort), Alive: true}
	g.update(m)
	m.Alive = false
	g.silence(t.Context(), m, p)
	t.Cleanup(g.doubting.Wait)
	return g, m
}

// Who missed that another one lives hears it from that one, a second after it spoke.
func TestSilentMemberThatSpeaksIsCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &person{answers: 3}
		g, m := doubted(t, p, func() bool { return true })
		time.Sleep(3*echoEvery - time.Millisecond)
		if p.joins.Load() != 0 {
			t.Errorf("compared %d times within a second after it spoke, in which others tell of it", p.joins.Load())
		}
		time.Sleep(2 * time.Millisecond)
		m.Alive = true
		g.update(m) // as the event does that the comparison brings
		g.doubting.Wait()
		if !g.Alive("b") || g.Dead("b") || p.joins.Load() != 1 {
			t.Errorf("asked %d times, compared %d times, alive %t; want one comparison and no death", p.asked.Load(), p.joins.Load(), g.Alive("b"))
		}
	})
}

// One comparison tells of all members, so many that are silent at once are no reason for as many.
func TestOneOfManySilentMembersIsCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &person{answers: 1}
		g, m := doubted(t, p, func() bool { return true })
		for i := range 50 {
			other := Member{ID: discovery.NodeID(fmt.Sprintf("c%d", i)), Role: RoleNode, Addr: m.Addr, Alive: true}
			g.update(other)
			other.Alive = false
			g.silence(t.Context(), other, p)
		}
		time.Sleep(echoEvery + time.Millisecond)
		if s := g.Stats(); s.Silent != 51 || p.asked.Load() > 2 || p.joins.Load() != 1 {
			t.Errorf("%d silent, asked %d times, compared %d times; want 51, at most 2 and 1", s.Silent, p.asked.Load(), p.joins.Load())
		}
		for _, m := range g.Members() {
			m.Alive = true
			g.update(m)
		}
	})
}

// A daemon that is silent for long counts as dead, its node does not before its kernel is silent as well.
func TestLongSilenceIsNoDeathOfTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kernel atomic.Bool
		kernel.Store(true)
		g, _ := doubted(t, &person{}, kernel.Load)
		for _, step := range []struct {
			after       time.Duration
			kernel      bool
			alive, dead bool
		}{
			{patienceSilent - time.Millisecond, true, true, false},
			{2 * time.Millisecond, true, false, false},
			{time.Hour, false, false, false},
			{2 * echoMute, false, false, true},
		} {
			time.Sleep(step.after)
			if g.Alive("b") != step.alive || g.Dead("b") != step.dead {
				t.Errorf("after %v more: alive %t, dead %t, want %t and %t", step.after, g.Alive("b"), g.Dead("b"), step.alive, step.dead)
			}
			kernel.Store(step.kernel)
		}
		if s := g.Stats(); s.Alive != 1 || s.Dead != 1 || s.Silent != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestKernelsAnswerEchoes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: raw sockets")
	}
	g, err := Open(Options{ID: "a", Bind: at(97)})
	if err != nil {
		t.Fatal(err)
	}
	if !g.echo(t.Context(), at(98)) {
		t.Error("the kernel of this host does not answer")
	}
	six, err := Open(Options{ID: "a", Bind: netip.IPv6Loopback()})
	if err != nil {
		t.Fatal(err)
	}
	if !six.echo(t.Context(), netip.IPv6Loopback()) {
		t.Error("it does not answer over IPv6")
	}
	if g.echo(t.Context(), netip.MustParseAddr("192.0.2.1")) { // of no host: RFC 5737
		t.Error("a kernel answers that is not there")
	}
}

func TestSecondOfOneIDGivesWay(t *testing.T) {
	a := start(t, Options{ID: "x", Bind: at(41)})
	b := start(t, Options{ID: "b", Bind: at(42), Join: []string{seed(41)}})
	until(t, b, "two members", 10*time.Second, func() bool { return b.Alive("x") })
	// The first has been there for long.
	a.conflict.mu.Lock()
	a.conflict.joined = a.conflict.joined.Add(-time.Hour)
	a.conflict.mu.Unlock()
	second := start(t, Options{ID: "x", Bind: at(43), Join: []string{seed(42)}})
	select {
	case err := <-second.done:
		if !errors.Is(err, discovery.ErrConflict) {
			t.Errorf("run: %v, want ErrConflict", err)
		}
		for _, addr := range []string{seed(41), seed(43), `"x"`} {
			if !strings.Contains(err.Error(), addr) {
				t.Errorf("%q does not name %s", err, addr)
			}
		}
		second.done <- nil
	case <-time.After(20 * time.Second):
		t.Fatal("two members of one id live on")
	}
	if m := b.Members(); !b.Alive("x") || m[1].Addr.String() != seed(41) {
		t.Errorf("the first was disturbed: %+v", m)
	}
}

func TestRestartAtAnotherAddressIsNoConflict(t *testing.T) {
	a := start(t, Options{ID: "a", Bind: at(51)})
	b := start(t, Options{ID: "b", Bind: at(52), Join: []string{seed(51)}})
	old := spawn(t, "x", at(53).String(), seed(51))
	until(t, a, "x", 10*time.Second, func() bool { return a.Alive("x") })
	until(t, b, "x", 10*time.Second, func() bool { return b.Alive("x") })
	_ = old.Process.Kill()
	_ = old.Wait()
	start(t, Options{ID: "x", Bind: at(54), Join: []string{seed(51)}})
	moved := func(r *running) func() bool {
		return func() bool {
			for _, m := range r.Members() {
				if m.ID == "x" {
					return m.Alive && m.Addr.String() == seed(54)
				}
			}
			return false
		}
	}
	until(t, a, "x at its new address", 15*time.Second, moved(a))
	until(t, b, "x at its new address", 15*time.Second, moved(b))
}

func TestSeenBeforeIsFoundAgainWithoutJoin(t *testing.T) {
	dir := t.TempDir()
	a := start(t, Options{ID: "a", Bind: at(61)})
	b := start(t, Options{ID: "b", Bind: at(62), Join: []string{seed(61)}, Dir: dir})
	until(t, b, "a", 10*time.Second, func() bool { return b.Alive("a") })
	until(t, a, "b", 10*time.Second, func() bool { return a.Alive("b") })
	b.stop()
	if err := <-b.done; err != nil {
		t.Fatal(err)
	}
	b.done <- nil
	b = start(t, Options{ID: "b", Bind: at(62), Dir: dir})
	until(t, b, "a, without being told where", 10*time.Second, func() bool { return b.Alive("a") })
}

func TestPortInUseIsClear(t *testing.T) {
	l, err := net.Listen("tcp", seed(71))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	g, err := Open(Options{ID: "a", Bind: at(71), Port: testPort})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), fmt.Sprint(testPort)) {
		t.Errorf("run: %v, want the port and that it is in use", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := Open(Options{ID: "Bad_", Role: "king", Tags: map[string]string{"role": "x"}})
	if !errors.Is(err, discovery.ErrInvalid) {
		t.Fatalf("open: %v, want ErrInvalid", err)
	}
	for _, word := range []string{`"Bad_"`, "a-z", `"king"`, "node or master", "bind", "tags"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not name %s", err, word)
		}
	}
}

func TestLibraryLinesAreTakenApart(t *testing.T) {
	type parts struct {
		Level         slog.Level
		Library, Text string
	}
	for line, want := range map[string]parts{
		"2026/11/22 09:47:32 [ERR] memberlist: Failed: x\n": {slog.LevelWarn, "memberlist", "Failed: x"},
		"[WARN] serf: a b\n":                 {slog.LevelWarn, "serf", "a b"},
		"[INFO] serf: EventMemberJoin: x y":  {slog.LevelDebug, "serf", "EventMemberJoin: x y"},
		"[DEBUG] something without a source": {slog.LevelDebug, "", "something without a source"},
		"":                                   {slog.LevelDebug, "", ""},
		"[ERR] ":                             {slog.LevelDebug, "", "[ERR]"},
	} {
		level, library, text := parseLine([]byte(line))
		if diff := cmp.Diff(parts{level, library, text}, want); diff != "" {
			t.Errorf("%q (-got +want):\n%s", line, diff)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("2026/11/22 09:47:32 [ERR] memberlist: Failed: x\n"))
	f.Fuzz(func(_ *testing.T, line []byte) { parseLine(line) })
}
