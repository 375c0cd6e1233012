// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weft/lb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func defaults(c Check) Check {
	c.Interval, c.Timeout, c.Healthy, c.Unhealthy, c.Grace = 2*time.Second, time.Second, 1, 3, 10*time.Second
	return c
}

func TestChecksAreRead(t *testing.T) {
	t.Parallel()
	odd := Check{Kind: HTTP, Port: 80, Path: "/a,b", Interval: time.Minute, Timeout: 50 * time.Millisecond, Healthy: 2, Unhealthy: 5}
	for text, want := range map[string]Check{
		"tcp:8080":                  defaults(Check{Kind: TCP, Port: 8080}),
		"http:80":                   defaults(Check{Kind: HTTP, Port: 80, Path: "/"}),
		"https:443/ready?full=1":    defaults(Check{Kind: HTTPS, Port: 443, Path: "/ready?full=1"}),
		"grpc:9000":                 defaults(Check{Kind: GRPC, Port: 9000}),
		"grpc:9000/shop.v1.Catalog": defaults(Check{Kind: GRPC, Port: 9000, Service: "shop.v1.Catalog"}),
		"command:test -e /a,b=c":    defaults(Check{Kind: Command, Command: []string{"test", "-e", "/a,b=c"}}),
	} {
		got, err := Parse(text)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%q: %v (-want +got):\n%s", text, err, d)
		}
	}
	odd.Path = "/a"
	got, err := Parse("http:80/a,interval=1m,timeout=50ms,healthy=2,unhealthy=5,grace=0s")
	if d := cmp.Diff(odd, got); err != nil || d != "" {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}

func TestBadChecksSayWhatIsAllowed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                          "tcp:PORT",
		"ping:1":                    "grpc:PORT",
		"tcp:":                      `port "": 1 to 65535 are allowed`,
		"tcp:0":                     "1 to 65535",
		"tcp:65536":                 "1 to 65535",
		"tcp:80/path":               "tcp:PORT",
		"command:":                  "command:COMMAND",
		"tcp:80,retries=3":          `option "retries"`,
		"tcp:80,interval=1ms":       "10ms to 1h0m0s",
		"tcp:80,timeout=2h":         "10ms to 1h0m0s",
		"tcp:80,unhealthy=0":        "1 to 1000",
		"tcp:80,healthy=2,healthy=": "1 to 1000",
		"tcp:80,grace=1s,grace=2s":  "grace is given twice",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("http:80/a,interval=1m")
	f.Add("command:a b,grace=1s")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		if c.Interval < shortest || c.Timeout < shortest || c.Healthy < 1 || c.Unhealthy < 1 || c.Kind != Command && c.Port == 0 {
			t.Errorf("%q is read as %+v", text, c)
		}
	})
}

// Answers come second by second: + is good, - is bad, and what follows is the health.
func TestAnswersInARowDecide(t *testing.T) {
	t.Parallel()
	c := Check{Healthy: 2, Unhealthy: 3, Grace: 3 * time.Second}
	for answers, want := range map[string]string{
		"":             "",
		"+":            "unknown",
		"++":           "unknown healthy",
		"-----":        "unknown unknown unknown unknown unhealthy", // two seconds of grace, the first answer comes after one
		"-+-++":        "unknown unknown unknown unknown healthy",
		"++--+---":     "unknown healthy healthy healthy healthy healthy healthy unhealthy",
		"++---+-++":    "unknown healthy healthy healthy unhealthy unhealthy unhealthy unhealthy healthy",
		"++---------+": "unknown healthy healthy healthy unhealthy unhealthy unhealthy unhealthy unhealthy unhealthy unhealthy unhealthy",
	} {
		start := time.Unix(1, 0)
		v := newVerdict(c, start)
		var got []string
		for i, a := range answers {
			var err error
			if a == '-' {
				err = errors.New("refused")
			}
			before := v.state
			if changed := v.take(start.Add(time.Duration(i+1)*time.Second), err); changed != (v.state.Health != before.Health) {
				t.Errorf("%s: answer %d: changed %t, health %s after %s", answers, i, changed, v.state.Health, before.Health)
			}
			if wantDetail := v.state.Health == lb.Unhealthy; (v.state.Detail == "refused") != wantDetail {
				t.Errorf("%s: detail %q at %s", answers, v.state.Detail, v.state.Health)
			}
			got = append(got, string(v.state.Health))
		}
		if d := cmp.Diff(want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s (-want +got):\n%s", answers, d)
		}
	}
}

// A task that starts is asked often; one that is known, by the interval.
func TestWatchTellsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		start := time.Now()
		var told []string
		Watch(ctx, Options{
			Check: Check{Kind: Command, Command: []string{"ok"}, Interval: 2 * time.Second, Timeout: time.Second, Healthy: 1, Unhealthy: 2, Grace: time.Minute},
			Execute: func(ctx context.Context, _ []string) error {
				switch since := time.Since(start); {
				case since < 250*time.Millisecond:
					return errors.New("status 1")
				case since > 5*time.Second:
					<-ctx.Done() // it hangs
					return ctx.Err()
				}
				return nil
			},
		}, func(s lb.State) {
			told = append(told, fmt.Sprint(time.Since(start), " ", s.Health, s.Detail))
			if s.Health == lb.Unhealthy {
				cancel()
			}
		})
		// Asked at 0.3 s, 2.3 s, 4.3 s; at 6.3 s and, after a time-out of 1 s, at 9.3 s it hangs.
		want := []string{"300ms healthy", "10.3s unhealthycommand ok: no answer within 1s"}
		if d := cmp.Diff(want, told); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}

// options ask a server in this process' own namespace.
func options(t *testing.T, addr net.Addr, text string) Options {
	t.Helper()
	at := netip.MustParseAddrPort(addr.String())
	c, err := Parse(fmt.Sprintf(text, at.Port()))
	if err != nil {
		t.Fatal(err)
	}
	c.Timeout = 10 * time.Second
	return Options{Check: c, Addr: at.Addr(), NetNS: "/proc/thread-self/ns/net"}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("entering a network namespace needs root")
	}
}

func TestServersAreAsked(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/sick", http.StatusFound)
		case "/sick":
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	closed := httptest.NewServer(handler)
	gone := closed.Listener.Addr()
	closed.Close()
	for _, c := range []struct {
		addr net.Addr
		text string
		want string // part of the error; empty: none
	}{
		{plain.Listener.Addr(), "tcp:%d", ""},
		{plain.Listener.Addr(), "http:%d", ""},
		{plain.Listener.Addr(), "http:%d/moved", ""},
		{plain.Listener.Addr(), "http:%d/sick", "status 503"},
		{secure.Listener.Addr(), "https:%d", ""},
		{secure.Listener.Addr(), "https:%d/sick", "status 503"},
		{plain.Listener.Addr(), "https:%d", "server gave HTTP response"},
		{gone, "tcp:%d", "connection refused"},
		{gone, "http:%d", "connection refused"},
	} {
		o := options(t, c.addr, c.text)
		err := Ask(t.Context(), o)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Count(err.Error(), c.addr.String()) != 1) {
			t.Errorf("%s at %s: %v, want %q", c.text, c.addr, err, c.want)
		}
	}
}

// A task in its node's own network has another address when its node has: it is asked there before its old one counts.
func TestWatchFollowsATaskThatMoved(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	var config net.ListenConfig
	server, err := config.Listen(t.Context(), "tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close() //nolint:errcheck // nothing was written
	o := options(t, server.Addr(), "tcp:%d,unhealthy=1,grace=0s")
	is := o.Addr
	o.Addr = netip.MustParseAddr("127.0.0.1")
	o.Moved = func(context.Context) netip.Addr { return is }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	Watch(ctx, o, func(s lb.State) {
		if s.Health != lb.Healthy {
			t.Errorf("%+v, want it healthy from the first question on", s)
		}
		cancel()
	})
}

// What listens in this namespace is not there in another one.
func TestTheTasksNamespaceIsAsked(t *testing.T) {
	t.Parallel()
	needsRoot(t)
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	path, release, released := make(chan string), make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		path <- fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		err = errors.Join(err, unix.Unshare(unix.CLONE_NEWNET))
		path <- ""
		<-release
		if err = errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET), home.Close()); err == nil {
			runtime.UnlockOSThread()
		}
		released <- err
	}()
	o := options(t, server.Listener.Addr(), "tcp:%d")
	o.NetNS = <-path
	<-path // it is in the new namespace
	defer func() {
		close(release)
		if err := <-released; err != nil {
			t.Error(err)
		}
	}()
	if err := Ask(t.Context(), o); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("%v, want that nothing is reachable from a namespace without links", err)
	}
	o.NetNS = "/proc/thread-self/ns/net"
	if err := Ask(t.Context(), o); err != nil {
		t.Errorf("the own namespace after the other one: %v", err)
	}
}
