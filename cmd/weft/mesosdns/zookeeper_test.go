// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	gocmp "github.com/google/go-cmp/cmp"
)

func TestEnsembleIsRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]ensemble{
		"zk://leader:2181/mesos":             {servers: []string{"leader:2181"}, path: "/mesos"},
		"zk://a,[fd00::1]:2182/x/mesos/":     {servers: []string{"a:2181", "[fd00::1]:2182"}, path: "/x/mesos"},
		"zk://me:p%40ss@10.0.0.1:2181/mesos": {servers: []string{"10.0.0.1:2181"}, user: "me", password: "p@ss", path: "/mesos"},
	} {
		got, err := parseEnsemble(text)
		if d := gocmp.Diff(got, want, gocmp.AllowUnexported(ensemble{})); err != nil || d != "" {
			t.Errorf("%s: %v (got -, want +):\n%s", text, err, d)
		}
	}
	for _, text := range []string{"", "zk://", "zk://a:2181", "zk:///mesos", "http://a/mesos", "zk://a:2181/"} {
		if _, err := parseEnsemble(text); err == nil || !strings.Contains(err.Error(), "is allowed") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestMasterInfoIsRead(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"address":{"hostname":"m1","ip":"10.0.0.1","port":5050},"pid":"master@10.0.0.1:5050"}`: "10.0.0.1:5050",
		`{"address":{"hostname":"m1","port":5050}}`:                                              "m1:5050",
		`{"pid":"master@[fd00::1]:5050"}`:                                                        "[fd00::1]:5050",
		`{}`:                                                                                     "", `{"address":{"ip":"10.0.0.1"}}`: "", `x`: "",
	} {
		if got, err := parseInfo([]byte(text)); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	got := inOrder([]string{"json.info_0000000012", "log_replicas", "json.info_0000000003", "info_0000000001"})
	if want := []string{"json.info_0000000003", "json.info_0000000012"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// No ZooKeeper answers: the daemon ends, as Mesos-DNS does, and says why.
func TestNoLeaderWithinTheTimeEndsTheDaemon(t *testing.T) {
	c := config()
	c.Zk, c.Masters, c.ZkDetectionTimeout = "zk://127.0.0.1:1/mesos", nil, 1
	d := launch(t, c)
	err := <-d.done
	d.done <- nil // for the end of the test
	if err == nil || !strings.Contains(err.Error(), "no leading master after 1 seconds") {
		t.Errorf("Run: %v", err)
	}
}

const zkServer = "/usr/share/zookeeper/bin/zkServer.sh"

// startZooKeeper starts Debian's on a free port of 127.0.0.1 and returns a session.
func startZooKeeper(t *testing.T) (addr string, conn *zk.Conn) {
	t.Helper()
	if _, err := os.Stat(zkServer); err != nil {
		t.Skip("there is no ZooKeeper: make test-zookeeper installs it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	_, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(dir, "zoo.cfg")
	text := fmt.Sprintf("tickTime=200\ndataDir=%s\nclientPort=%s\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n", dir, port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(zkServer, "start-foreground", config)
	cmd.Env = append(os.Environ(), "ZOO_LOG_DIR="+dir, "ZOO_LOG4J_PROP=ERROR,CONSOLE")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
	})
	conn, events, err := zk.Connect([]string{addr}, 10*time.Second, zk.WithLogInfo(false), zk.WithLogger(quiet{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	deadline := time.After(60 * time.Second)
	for {
		select {
		case e := <-events:
			if e.State == zk.StateHasSession {
				return addr, conn
			}
		case <-deadline:
			t.Fatal("ZooKeeper does not answer")
		}
	}
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// join puts a master into ZooKeeper as Mesos does.
func join(t *testing.T, conn *zk.Conn, m *master) (path string) {
	t.Helper()
	info := fmt.Sprintf(`{"address":{"hostname":"m","ip":"127.0.0.1","port":%s},"pid":"master@%s"}`, m.port(), m.addr)
	path, err := conn.Create("/mesos/json.info_", []byte(info), zk.FlagEphemeral|zk.FlagSequence, zk.WorldACL(zk.PermAll))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMastersAreFoundByZooKeeper(t *testing.T) {
	addr, conn := startZooKeeper(t)
	if _, err := conn.Create("/mesos", nil, 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	first, second := newMaster(t, "127.0.0.1:0"), newMaster(t, "127.0.0.1:0")
	first.say(task(first.addr, "10.0.0.1"))
	second.say(task(second.addr, "10.0.0.2"))
	leader := join(t, conn, first)
	join(t, conn, second)

	c := config()
	c.Zk, c.Masters = "zk://"+addr+"/mesos", nil
	d := launchReading(t, c, time.Hour) // what follows is ZooKeeper's doing
	d.waitReady()
	if got := d.addresses("web.marathon.mesos."); got != "10.0.0.1" {
		t.Errorf("the task is at %s, want 10.0.0.1, which the leader says\n%s", got, d.logged())
	}
	if err := conn.Delete(leader, -1); err != nil {
		t.Fatal(err)
	}
	until(t, "the new leader is followed", func() bool { return d.addresses("web.marathon.mesos.") == "10.0.0.2" })
}
