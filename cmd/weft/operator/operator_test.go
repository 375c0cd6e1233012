// SPDX-License-Identifier: Apache-2.0

package operator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"weft/cmd/weft/operator"
	"weft/cmd/weft/show"
	"weft/control/ledger"
	"weft/control/master"
	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

var update = flag.Bool("update", false, "rewrite golden files")

// revision counts what the leader decided beside us, in one change or several.
var revision = regexp.MustCompile(`revision \d+`)

// facts are what three nodes say, one of which is refused, and one of which is down.
type facts struct{ rows []discovery.Row }

func (f *facts) Rows(kind discovery.Kind) []discovery.Row {
	var list []discovery.Row
	for _, r := range f.rows {
		if r.Kind == kind {
			list = append(list, r)
		}
	}
	return list
}

func (f *facts) Changed(...discovery.Kind) <-chan struct{} { return nil }

func (f *facts) Alive(id discovery.NodeID) bool { return id != "h2" }

func (f *facts) say(node string, kind discovery.Kind, key string, v any) {
	value, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	f.rows = append(f.rows, discovery.Row{Writer: node, Kind: kind, Key: key, Incarnation: 1, Seq: 1, Value: value})
}

func nodes() *facts {
	f := &facts{}
	for i, addr := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.1"} {
		id := fmt.Sprint("h", i+1)
		n := discovery.Node{
			ID: discovery.NodeID(id), Hostname: id + ".example", Addrs: []netip.Addr{netip.MustParseAddr(addr)}, MTU: 1500, Version: "v1",
		}
		if i == 0 {
			n.Warnings = []string{"the path to node h2 carries 1400 bytes, the link 1500", "node h3 is not reached by the tunnel's port: the second one is used"}
		}
		f.say(id, discovery.KindNode, id, n)
	}
	f.say("h1", discovery.KindWant, "prod", overlay.Want{Network: "prod", Blocks4: 2, Blocks6: 1})
	f.say("h2", discovery.KindWant, "prod", overlay.Want{Network: "prod", Groups: []string{"cache"}})
	f.say("h1", discovery.KindEndpoint, "t1", overlay.Endpoint{Attachment: overlay.Attachment{Task: "t1", Network: "prod", Groups: []string{"web"}}})
	f.say("h1", discovery.KindBackend, "b", lb.Backend{VIP: lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: "tcp"}})
	return f
}

// start runs a master, of a cluster with a secret if there is one, and returns its address.
func start(t *testing.T, secret string) string {
	t.Helper()
	f := nodes()
	m, err := master.Open(master.Options{
		ID: "m1", Addr: netip.MustParseAddr("10.0.0.9"), Listen: "127.0.0.1:0", Facts: f, Members: f,
		Ledger: ledger.Options{Dir: t.TempDir()}, Emit: func([]discovery.Row) error { return nil }, Secret: secret,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m.Addr().String()
}

// weft runs a command line and returns what it prints, and after it "error: ..." or "usage: ...".
func weft(t *testing.T, master string, line string) string {
	t.Helper()
	var out bytes.Buffer
	root := &cobra.Command{Use: "weft", SilenceErrors: true, SilenceUsage: true}
	root.SetFlagErrorFunc(show.FlagError)
	env := operator.Env{Stdout: &out, Stderr: &out, Getenv: func(name string) string {
		return map[string]string{"WEFT_MASTER": master}[name]
	}}
	root.AddCommand(operator.Commands(env)...)
	vip := &cobra.Command{Use: "vip"} // the rest of it is cmd/weft/node's
	vip.AddCommand(operator.Publishing(env)...)
	root.AddCommand(vip)
	root.SetArgs(strings.Fields(line))
	if err := root.ExecuteContext(t.Context()); err != nil {
		kind := "error"
		if errors.Is(err, show.ErrUsage) {
			kind = "exit 2"
		}
		fmt.Fprintf(&out, "%s: %v\n", kind, err)
	}
	text := strings.ReplaceAll(out.String(), master, "MASTER")
	_, port, _ := strings.Cut(master, ":")
	text = strings.ReplaceAll(text, ":"+port, ":PORT")
	return revision.ReplaceAllString(text, "revision N")
}

// TestSession is a session of an operator: each command of the golden file, with what it answers.
func TestSession(t *testing.T) {
	master := start(t, "")
	path := filepath.Join("testdata", "session.txt")
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(golden)) {
		switch {
		case strings.HasPrefix(line, "#"), line == "\n" && !strings.HasSuffix(got.String(), "\n\n"):
			got.WriteString(line)
		case strings.HasPrefix(line, "$ weft "):
			got.WriteString(line)
			got.WriteString(weft(t, master, strings.TrimPrefix(line, "$ weft ")))
		case strings.HasPrefix(line, "? weft "):
			// Asked until the answer is the one that follows: the leader works beside us.
			want := answer(string(golden), line)
			text := weft(t, master, strings.TrimPrefix(line, "? weft "))
			patience := 20 * time.Second
			if *update {
				patience = 2 * time.Second // then what is answered is what is meant
			}
			for deadline := time.Now().Add(patience); text != want && time.Now().Before(deadline); {
				text = weft(t, master, strings.TrimPrefix(line, "? weft "))
			}
			got.WriteString(line)
			got.WriteString(text)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(golden), got.String()); diff != "" {
		t.Errorf("differs from %s (-update writes it anew):\n%s", path, diff)
	}
}

// answer returns what the golden text has after line, up to the next empty line.
func answer(golden, line string) string {
	_, rest, _ := strings.Cut(golden, line)
	text, _, _ := strings.Cut(rest, "\n\n")
	return text + "\n"
}

func TestNoMasterIsSaid(t *testing.T) {
	got := weft(t, "127.0.0.1:1", "network list")
	if !strings.HasPrefix(got, "error: no master answers (MASTER: ") || strings.Count(got, "\n") != 1 {
		t.Errorf("got %q, want one line that names the master", got)
	}
}

// While a cluster changes its secret the file has two: the first is shown.
func TestTheFirstSecretIsShown(t *testing.T) {
	const secret = "sixteen bytes, and more"
	master, file := start(t, secret), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\nanother one, accepted too\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := weft(t, master, "network list --secret-file "+file); !strings.HasPrefix(got, "NAME") {
		t.Errorf("got %q, want a table", got)
	}
	if got := weft(t, master, "network list --secret-file "+filepath.Join(t.TempDir(), "none")); !strings.HasPrefix(got, "error: read the cluster's secret") {
		t.Errorf("got %q, want that there is no file", got)
	}
	if got := weft(t, master, "network list --master 10.0.0.1"); !strings.HasPrefix(got, `exit 2: usage: master is "10.0.0.1": HOST:PORT is allowed`) {
		t.Errorf("got %q, want what a master's address looks like", got)
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Example == "" || c.Short == "" || !strings.Contains(c.Example, c.Name()) {
			t.Errorf("%s: short help %q, example %q", c.CommandPath(), c.Short, c.Example)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	env := operator.Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Getenv: os.Getenv}
	for _, c := range append(operator.Commands(env), operator.Publishing(env)...) {
		walk(c)
	}
}
