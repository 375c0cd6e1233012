// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"weft/discovery/discoverypb"
	"weft/discovery/wire"
	"weft/tests/lab"
	"weft/tests/lab/labtest"
)

// TestNamesOfADeadNodeGo ends the daemon of a node, which no name goes for, and then cuts the node off: on the others the
// names of its tasks go, until it is back. The node itself hears nobody, which proves nobody's death: it keeps what it knew.
func TestNamesOfADeadNodeGo(t *testing.T) {
	l := labtest.Up(t, lab.Options{Hosts: 3})
	if _, err := l.Masters[0].Weft(t.Context(), "network", "add", "prod", "--subnet", "9.1.0.0/16").Output(); err != nil {
		t.Fatal(err)
	}
	here, cut := l.Hosts[0], l.Hosts[2]
	for _, run := range []struct {
		host *lab.Host
		name string
	}{{l.Hosts[1], "twin"}, {cut, "twin"}, {cut, "lone"}, {here, "near"}} {
		task := run.host.Weft(t.Context(), "run", "--network", "prod", "--name", run.name, "--", "sleep", "1000")
		if err := task.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = task.Process.Kill(), task.Wait() })
	}
	answers := func(host *lab.Host, name string, want int) error {
		out, err := host.Weft(t.Context(), "dns", "query", name).Output()
		if n := strings.Count("\n"+out, "\nanswer"); err != nil || n != want {
			return fmt.Errorf("%s on %s has %d answers, want %d: %w\n%s", name, host.Name, n, want, err, out)
		}
		return nil
	}
	whole := func(host *lab.Host) {
		t.Helper()
		for name, want := range map[string]int{"twin.prod.weft": 2, "twin.weft.mesos": 2, "lone.weft.mesos": 1, "near.weft.mesos": 1} {
			eventually(t, func() error { return answers(host, name, want) })
		}
	}
	whole(here)
	whole(cut)
	// Its daemon alone is away: its kernel answers, and so do names.
	silent := func(want string) {
		t.Helper()
		eventually(t, func() error {
			out, err := here.Command(t.Context(), "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:7780/metrics").Output()
			if err != nil || !strings.Contains(out, "\nweft_members_silent "+want+"\n") {
				return fmt.Errorf("not %s members are silent: %w", want, err)
			}
			return nil
		})
	}
	if err := cut.Signal("netd", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	silent("1")
	whole(here)
	if err := cut.StartNetd(); err != nil {
		t.Fatal(err)
	}
	silent("0")
	whole(cut)
	if err := cut.Cut(true); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"twin.prod.weft": 1, "twin.weft.mesos": 1, "lone.weft.mesos": 0, "near.weft.mesos": 1} {
		eventually(t, func() error { return answers(here, name, want) })
	}
	conn, err := wire.Connect("unix:"+cut.Socket(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	eventually(t, func() error {
		nodes, err := discoverypb.NewClient(conn).Nodes(t.Context())
		for _, n := range nodes {
			if n.Alive != (string(n.ID) == cut.Name) {
				return fmt.Errorf("%s takes %s for alive: %t", cut.Name, n.ID, n.Alive)
			}
		}
		return err
	})
	whole(cut)
	if err := cut.Cut(false); err != nil {
		t.Fatal(err)
	}
	whole(here)
}
