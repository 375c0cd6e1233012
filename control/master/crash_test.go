// SPDX-License-Identifier: Apache-2.0

package master_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"weft/control"
	"weft/control/controlpb"
	"weft/control/ledger/ledgertest"
	"weft/control/master"
	"weft/discovery"
	"weft/overlay"
)

// envChild makes the test binary a master: child as JSON. It reads rows of nodes from its standard
// input and writes those of the ledger to its standard output.
const envChild = "WEFT_TEST_MASTER"

type child struct {
	ID, Dir, Listen string
	Initial         map[string]string
}

func TestMain(m *testing.M) {
	if os.Getenv(envChild) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := runChild(os.Getenv(envChild), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runChild(text string, in io.Reader, out io.Writer) error {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	f := &facts{}
	o := options(c.ID, c.Dir)
	o.Facts, o.Listen, o.Ledger.Initial = f, c.Listen, c.Initial
	encoder := json.NewEncoder(out)
	o.Emit = func(rows []discovery.Row) error { return encoder.Encode(rows) }
	m, err := master.Open(o)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		for decoder := json.NewDecoder(in); ; {
			var r discovery.Row
			if decoder.Decode(&r) != nil {
				return // the parent is gone: so is this test
			}
			f.put(r)
		}
	}()
	return m.Run(ctx)
}

// process is a master as a process of its own.
type process struct {
	child
	t    *testing.T
	cmd  *exec.Cmd
	in   *json.Encoder
	rows *sink
	done chan struct{} // closed when it has ended
}

func (p *process) start() {
	p.t.Helper()
	text, err := json.Marshal(p.child)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), envChild+"="+string(text))
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.in, p.rows, p.done = json.NewEncoder(in), &sink{}, make(chan struct{})
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	rows, done, cmd := p.rows, p.done, p.cmd
	go func() {
		defer close(done)
		for decoder := json.NewDecoder(out); ; {
			var list []discovery.Row
			if decoder.Decode(&list) != nil {
				break
			}
			rows.take(list) //nolint:errcheck // it never fails
		}
		cmd.Wait() //nolint:errcheck // it is killed
	}()
}

// kill ends the process at once, as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-p.done
}

// cluster starts n masters as processes.
func cluster(t *testing.T, n int) map[string]*process {
	t.Helper()
	all := map[string]*process{}
	initial, listen, free := map[string]string{}, map[string]string{}, ledgertest.Ports(t, 2*n)
	for i := range n {
		id := fmt.Sprint("m", i+1)
		initial[id], listen[id] = free[2*i], free[2*i+1]
	}
	for id := range initial {
		p := &process{child: child{ID: id, Dir: t.TempDir(), Listen: listen[id], Initial: initial}, t: t}
		p.start()
		t.Cleanup(p.kill)
		all[id] = p
	}
	return all
}

func dial(t *testing.T, addrs ...string) *controlpb.Client {
	t.Helper()
	c, err := controlpb.Dial(addrs, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // the test is over
	return c
}

// tell says a row to every master that lives.
func tell(t *testing.T, all map[string]*process, node string, kind discovery.Kind, key string, v any) {
	t.Helper()
	f := &facts{}
	f.say(node, kind, key, v)
	for _, p := range all {
		if err := p.in.Encode(f.rows[0]); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, os.ErrClosed) {
			t.Fatal(err)
		}
	}
}

// held counts the blocks that each node has, by what one master answers.
func held(t *testing.T, c *controlpb.Client) map[string]int {
	t.Helper()
	count := map[string]int{}
	list, err := c.Networks(t.Context(), "prod")
	if err != nil {
		return nil
	}
	for _, b := range list[0].Blocks {
		count[string(b.Node)]++
	}
	return count
}

func leader(t *testing.T, c *controlpb.Client) (string, error) {
	t.Helper()
	st, err := c.Status(t.Context())
	for _, m := range st.Masters {
		if m.Leads {
			return m.ID, nil
		}
	}
	return "", errors.Join(errors.New("nobody leads"), err)
}

func TestTheLeaderIsKilledAndAnotherDecides(t *testing.T) {
	all := cluster(t, 3)
	var addrs []string
	for _, id := range slices.Sorted(maps.Keys(all)) {
		addrs = append(addrs, all[id].Listen)
	}
	c := dial(t, addrs...)
	eventually(t, "the masters come together", func() error {
		_, err := c.AddNetwork(t.Context(), prod())
		return err
	})
	const nodes = 20
	want := func(blocks int) map[string]int {
		expected := map[string]int{}
		for n := range nodes {
			id := fmt.Sprint("n", n)
			expected[id] = blocks
			tell(t, all, id, discovery.KindWant, "prod", overlay.Want{Network: "prod", Blocks4: blocks, Groups: []string{"public"}})
		}
		return expected
	}
	for n := range nodes {
		id := fmt.Sprint("n", n)
		addr := fmt.Sprintf("10.0.0.%d", n+1)
		tell(t, all, id, discovery.KindNode, id, discovery.Node{ID: discovery.NodeID(id), Addrs: []netip.Addr{netip.MustParseAddr(addr)}})
	}
	given := func(expected map[string]int) func() error {
		return func() error {
			if diff := cmp.Diff(expected, held(t, c)); diff != "" {
				return errors.New(diff)
			}
			return nil
		}
	}
	eventually(t, "every node has a block", given(want(1)))

	// Operators go on asking, while the leader is killed.
	var first string
	eventually(t, "somebody leads", func() (err error) { first, err = leader(t, c); return err })
	stop := operators(t, c)
	began := time.Now()
	all[first].kill()
	expected := want(2)
	eventually(t, "every node has its second block", given(expected))
	t.Logf("the leader was killed; all was decided %s later", time.Since(began).Round(time.Millisecond))
	eventually(t, "another one leads", func() error {
		second, err := leader(t, c)
		if err == nil && second == first {
			err = fmt.Errorf("%s leads, which is dead", first)
		}
		return err
	})
	groups := stop(1)

	// Nothing that was acknowledged is lost, and nothing is there twice.
	list, err := c.Groups(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, g := range list {
		known[g.Name] = true
	}
	for _, g := range groups {
		if !known[g] {
			t.Errorf("group %s was acknowledged and is lost", g)
		}
	}
	all[first].start()
	eventually(t, "all masters tell the same rows, the one that was killed too", func() error {
		return same(all)
	})
	if got := len(all[first].rows.live(discovery.KindBlock)); got != 2*nodes {
		t.Errorf("%d blocks in rows, want %d", got, 2*nodes)
	}
}

// operators adds groups one after the other. stop waits until least of them are acknowledged, and
// returns all that were.
func operators(t *testing.T, c *controlpb.Client) (stop func(least int64) []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	var made []string
	var acknowledged atomic.Int64
	done.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprint("g", i)
			if err := c.AddGroup(ctx, overlay.Group{Network: "prod", Name: name}); err == nil {
				made = append(made, name)
				acknowledged.Add(1)
			} else if ctx.Err() == nil && !errors.Is(err, control.ErrUnavailable) {
				t.Errorf("add group %s: %v", name, err)
			}
		}
	})
	return func(least int64) []string {
		eventually(t, "operators get something done", func() error {
			if n := acknowledged.Load(); n < least {
				return fmt.Errorf("%d of %d groups were acknowledged", n, least)
			}
			return nil
		})
		cancel()
		done.Wait()
		return made
	}
}

// same compares what the masters have told, row by row.
func same(all map[string]*process) error {
	var first map[string]string
	for _, id := range slices.Sorted(maps.Keys(all)) {
		p := all[id]
		p.rows.mu.Lock()
		told := map[string]string{}
		for key, r := range p.rows.rows {
			told[key] = fmt.Sprintf("%d %t %s", r.Seq, r.Deleted, r.Value)
		}
		p.rows.mu.Unlock()
		if first == nil {
			first = told
		}
		if diff := cmp.Diff(first, told); diff != "" || len(told) == 0 {
			return fmt.Errorf("%s: %d rows, %s", id, len(told), strings.SplitAfterN(diff, "\n", 8))
		}
	}
	return nil
}

func TestWithoutAMajorityStatusStillAnswers(t *testing.T) {
	all := cluster(t, 3)
	ids := slices.Sorted(maps.Keys(all))
	last := dial(t, all[ids[2]].Listen)
	eventually(t, "the masters come together", func() error {
		_, err := last.AddNetwork(t.Context(), prod())
		return err
	})
	all[ids[0]].kill()
	all[ids[1]].kill()
	eventually(t, "the loss is noticed", func() error {
		st, err := last.Status(t.Context())
		if err != nil || st.Ledger.Healthy || st.Ledger.Problem == "" || st.Counts.Networks != 1 {
			return fmt.Errorf("status %+v: %w", st, errors.Join(err, errors.New("want it unhealthy, with the network")))
		}
		return nil
	})
	if err := last.AddGroup(t.Context(), overlay.Group{Network: "prod", Name: "web"}); !errors.Is(err, control.ErrUnavailable) {
		t.Errorf("add a group alone: %v, want %v", err, control.ErrUnavailable)
	}
	all[ids[0]].start()
	eventually(t, "two of three decide again", func() error {
		return last.AddGroup(t.Context(), overlay.Group{Network: "prod", Name: "web"})
	})
}
