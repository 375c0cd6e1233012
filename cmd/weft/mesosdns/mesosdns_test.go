// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	wire "github.com/miekg/dns"
	"go.uber.org/goleak"

	"weft/discovery/httpapi"
	"weft/discovery/mesos"
	"weft/discovery/zone"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// nobody reads a log.
var nobody = slog.New(slog.DiscardHandler)

const golden = "../../../discovery/mesos/testdata/golden"

func TestFlags(t *testing.T) {
	t.Parallel()
	check := func(want flags, args ...string) {
		t.Helper()
		got, err := parseFlags(args)
		if err != nil || got != want {
			t.Errorf("%q = %+v, %v, want %+v", args, got, err, want)
		}
	}
	check(flags{config: "config.json"})
	check(flags{config: "a"}, "-config", "a")
	check(flags{config: "a"}, "--config=a", "-logtostderr=true", "-alsologtostderr", "-log_dir", "/tmp", "-stderrthreshold=0")
	check(flags{config: "config.json", debug: true}, "-v=1")
	check(flags{config: "config.json", debug: true, version: true}, "-v", "2", "-version")
	check(flags{config: "config.json"}, "extra", "-version") // as Go's flags have it: the first word ends them
	check(flags{config: "config.json"}, "-v=0")
	check(flags{config: "config.json", version: true}, "-version")
	for _, bad := range []string{"-nonsense", "-vv", "-v=x", "-v"} {
		if _, err := parseFlags([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path, "/nowhere")
}

// The file is DC/OS's, with another list of masters.
func TestConfigurationOfDCOS(t *testing.T) {
	t.Parallel()
	c, err := load(t, `{
		"zk": "zk://leader:2181/mesos", "refreshSeconds": 30, "ttl": 60, "domain": "MESOS", "port": 61053,
		"resolvers": ["198.51.100.1"], "timeout": 5, "listener": "0.0.0.0", "email": "root.mesos-dns.mesos",
		"IPSources": ["host", "netinfo"], "externalon": true, "masters": ["10.0.0.1:5050", "master.example:5050"],
		"soaRName": "root@example.com", "EnforceRFC952": true, "strict": true, "healthy": true
	}`)
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Zk, want.RefreshSeconds, want.Port, want.Resolvers = "zk://leader:2181/mesos", 30, 61053, []string{"198.51.100.1"}
	want.IPSources, want.Masters = []string{"host", "netinfo"}, []string{"10.0.0.1:5050", "master.example:5050"}
	want.SOARname, want.SOAMname, want.EnforceRFC952, want.Strict, want.Healthy = "root.example.com.", "ns1.mesos.", true, true, true
	want.File = c.File
	if d := gocmp.Diff(c, want); d != "" {
		t.Errorf("configuration (got -, want +):\n%s", d)
	}
}

func TestBadConfigurationNamesTheKey(t *testing.T) {
	t.Parallel()
	check := func(text string, words ...string) {
		t.Helper()
		_, err := load(t, text)
		for _, w := range words {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v, want %q in it", text, err, w)
			}
		}
	}
	check(`{`, "unexpected end")
	check(`{}`, "masters")
	check(`{"zk": "http://a:2181/mesos"}`, "zk", "zk://[user:password@]host:port")
	check(`{"zk": "zk://a:2181"}`, "zk", "/path is allowed")
	check(`{"masters": ["10.0.0.1"]}`, "masters", `"10.0.0.1"`, "host:port")
	check(`{"masters": ["10.0.0.1:0"]}`, "masters", "host:port")
	check(`{"masters": ["[::1]:1", "[0::1]:1"]}`, "masters", "twice")
	const m = `"masters": ["10.0.0.1:5050"]`
	check(`{`+m+`, "IPSources": ["host", "rkt"]}`, "IPSources", "rkt", "netinfo")
	check(`{`+m+`, "IPSources": []}`, "IPSources")
	check(`{`+m+`, "IPSources": ["host", "host"]}`, "IPSources", "twice")
	check(`{`+m+`, "refreshSeconds": 0}`, "refreshSeconds")
	check(`{`+m+`, "stateTimeoutSeconds": 0}`, "stateTimeoutSeconds")
	check(`{`+m+`, "port": 65536, "httpport": -1}`, "port: 65536", "httpport: -1")
	check(`{`+m+`, "dnson": false, "httpon": false}`, "dnson")
	check(`{`+m+`, "domain": "a..b"}`, "domain")
	check(`{`+m+`, "listener": "x", "httplistener": "localhost"}`, "listener")
	check(`{`+m+`, "resolvers": ["dns.example"]}`, "resolvers", "dns.example")
	check(`{`+m+`, "resolvers": ["8.8.8.8", "8.8.8.8:53"]}`, "resolvers", "twice")
	check(`{`+m+`, "resolvers": ["192.0.2.53", "[::ffff:192.0.2.53]:53"]}`, "resolvers", "twice")
	check(`{`+m+`, "zoneResolvers": {"a.mesos": ["8.8.8.8"], "b": []}}`, "a.mesos", "lies in mesos", "b: at least one")
	check(`{`+m+`, "certFile": "x"}`, "KeyFile")
	check(`{`+m+`, "mesosAuthentication": "iam"}`, "IAMConfigFile", "service account")
	check(`{`+m+`, "mesosAuthentication": "digest"}`, "mesosAuthentication", `"digest"`, `"basic", "iam"`)
	check(`{`+m+`, "mesosAuthentication": "basic"}`, "mesosCredentials")
	if _, err := Load("~/mesos-dns.json", "/nowhere"); err == nil || !strings.Contains(err.Error(), "/nowhere/mesos-dns.json") {
		t.Errorf("no file: %v", err)
	}
	if _, err := load(t, `{`+m+`, "externalon": false, "resolvers": ["x"]}`); err != nil {
		t.Errorf("resolvers that are not used: %v", err)
	}
}

// master is a Mesos master as far as its state page goes.
type master struct {
	addr     string
	document atomic.Pointer[[]byte]
	asked    atomic.Int64
	handle   atomic.Pointer[http.HandlerFunc] // instead, if set
}

func newMaster(t *testing.T, addr string) *master {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	m := &master{addr: l.Addr().String()}
	server := &http.Server{Handler: m, ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return m
}

func (m *master) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.asked.Add(1)
	if h := m.handle.Load(); h != nil {
		(*h)(w, r)
		return
	}
	d := m.document.Load()
	if d == nil || r.URL.Path != "/master/state" {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(*d)
}

func (m *master) say(document []byte) { m.document.Store(&document) }

func (m *master) answer(h http.HandlerFunc) { m.handle.Store(&h) }

func (m *master) port() string { return m.addr[strings.LastIndexByte(m.addr, ':')+1:] }

// daemon is a Daemon that runs on free ports of 127.0.0.1.
type daemon struct {
	*Daemon
	t         *testing.T
	dns, http string
	log       *bytes.Buffer
	mu        sync.Mutex // guards log
	cancel    context.CancelFunc
	done      chan error
}

func (d *daemon) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(b)
}

func (d *daemon) logged() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

func config(masters ...string) Config {
	c := Defaults()
	c.Listener, c.HTTPListener, c.Port, c.HTTPPort = "127.0.0.1", "127.0.0.1", 0, 0
	c.Masters, c.ExternalOn, c.RefreshSeconds, c.Strict = masters, false, 1, true
	c.IPSources = []string{"host", "netinfo"}
	return c
}

func launch(t *testing.T, c Config) *daemon {
	t.Helper()
	return launchReading(t, c, 20*time.Millisecond)
}

// launchReading is launch with the time between two looks at the state.
func launchReading(t *testing.T, c Config, every time.Duration, prepare ...func(*Daemon)) *daemon {
	t.Helper()
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, log: &bytes.Buffer{}, done: make(chan error, 1)}
	var err error
	if d.Daemon, err = New(c, "1.2.3", slog.New(slog.NewTextHandler(d, nil))); err != nil {
		t.Fatal(err)
	}
	d.every = every
	d.source.lookUp = func(_ context.Context, host string) ([]netip.Addr, error) {
		if host == "localhost" {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}
		return nil, errors.New("no such host")
	}
	for _, f := range prepare {
		f(d.Daemon)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	go func() { d.done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-d.done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return d
}

func (d *daemon) waitReady() *daemon {
	d.t.Helper()
	select {
	case <-d.ready:
	case <-time.After(20 * time.Second):
		d.t.Fatalf("not ready: %s", d.logged())
	}
	if d.server != nil {
		d.dns = d.server.Addrs()[0].String()
	}
	if d.Daemon.http != nil {
		d.http = "http://" + d.Daemon.http.Addr().String()
	}
	return d
}

func (d *daemon) get(path string, accept string) (int, string) {
	d.t.Helper()
	r, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, d.http+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func (d *daemon) ask(name string, qtype uint16) *wire.Msg {
	d.t.Helper()
	c := wire.Client{Net: "tcp"}
	r, _, err := c.Exchange(new(wire.Msg).SetQuestion(name, qtype), d.dns)
	if err != nil {
		d.t.Fatalf("ask %s: %v", name, err)
	}
	return r
}

func (d *daemon) addresses(name string) string {
	var list []string
	for _, rr := range d.ask(name, wire.TypeA).Answer {
		list = append(list, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

// until waits for a state of things.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

func state(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(golden, name, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func read[T any](t *testing.T, text []byte) (document T) {
	t.Helper()
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return document
}

func sorted(a httpapi.Transfer) httpapi.Transfer {
	a.Serial = 0
	for _, m := range []map[string][]string{a.Records.As, a.Records.AAAAs, a.Records.SRVs} {
		for _, v := range m {
			slices.Sort(v)
		}
	}
	return a
}

func sortedTasks(e httpapi.Enumeration) httpapi.Enumeration {
	for _, f := range e.Frameworks {
		slices.SortFunc(f.Tasks, func(a, b httpapi.EnumeratedTask) int { return strings.Compare(a.ID, b.ID) })
		for _, task := range f.Tasks {
			slices.SortFunc(task.Records, func(a, b httpapi.EnumeratedRecord) int {
				return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Host, b.Host), strings.Compare(a.Type, b.Type))
			})
		}
	}
	return e
}

// One daemon after the other state: what it says over its sockets is what Mesos-DNS said.
func TestEveryRecordedStateOverSockets(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.say(state(t, "001-empty"))
	c := config(m.addr)
	d := launch(t, c).waitReady()
	dirs, err := filepath.Glob(golden + "/*")
	if err != nil || len(dirs) < 38 {
		t.Fatalf("%d states, %v", len(dirs), err)
	}
	for _, dir := range dirs {
		// The daemon was told 127.0.0.1 at a port of its own, so leader and listed master are two at one
		// address; the recorded ones were one. Their records are the same.
		d.nextState(state(t, filepath.Base(dir)), m)
		want := sorted(read[httpapi.Transfer](t, file(t, dir, "axfr.rfc1123.json")))
		_, body := d.get("/v1/axfr", "")
		if diff := gocmp.Diff(sorted(read[httpapi.Transfer](t, []byte(body))), want); diff != "" {
			t.Errorf("%s axfr (got -, want +):\n%s", dir, diff)
		}
		_, body = d.get("/v1/enumerate", "")
		tasks := sortedTasks(read[httpapi.Enumeration](t, file(t, dir, "enumerate.rfc1123.json")))
		if diff := gocmp.Diff(sortedTasks(read[httpapi.Enumeration](t, []byte(body))), tasks); diff != "" {
			t.Errorf("%s enumerate (got -, want +):\n%s", dir, diff)
		}
		d.replay(dir)
	}
}

func file(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// nextState waits until the daemon has read a document: the first question after it may get the one
// before, the second gets this one, and with the third it is true.
func (d *daemon) nextState(document []byte, m *master) {
	d.t.Helper()
	m.say(document)
	asked := m.asked.Load()
	until(d.t, "the next state", func() bool { return m.asked.Load() >= asked+3 })
}

// replay asks some of the recorded questions over TCP; all of them are in discovery/dns's test.
func (d *daemon) replay(dir string) {
	d.t.Helper()
	f, err := os.Open(filepath.Join(dir, "dns.rfc1123.txt.gz"))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	r, err := gzip.NewReader(f)
	if err != nil {
		d.t.Fatal(err)
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 0; lines.Scan(); n++ {
		if n%97 != 0 {
			continue
		}
		f := strings.SplitN(lines.Text(), " ", 4)
		got := d.ask(f[0], wire.StringToType[f[1]])
		_, answers, _ := strings.Cut(lines.Text(), " AN[")
		answers, _, _ = strings.Cut(answers, "] NS[")
		want := 0
		if answers != "" {
			want = strings.Count(answers, " | ") + 1
		}
		if wire.RcodeToString[got.Rcode] != f[2] || len(got.Answer) != want {
			d.t.Errorf("%s: %v, want %s", dir, got, lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		d.t.Fatal(err)
	}
}

func task(leader, addr string) []byte {
	return fmt.Appendf(nil, `{"leader": "master@%s", "slaves": [{"id": "a-S0", "pid": "slave(1)@%s:5051"}],
		"frameworks": [{"name": "marathon", "tasks": [{"id": "t", "name": "web", "slave_id": "a-S0", "state": "TASK_RUNNING"}]}]}`, leader, addr)
}

// Only the leader's state counts; it is asked at the port that is configured.
func TestLeaderIsFollowed(t *testing.T) {
	leader := newMaster(t, "127.0.0.3:0")
	other := newMaster(t, "127.0.0.2:"+leader.port())
	other.say(task("127.0.0.3:1", "10.0.0.66"))
	leader.say(task("127.0.0.3:1", "10.0.0.1"))
	d := launch(t, config("127.0.0.4:"+leader.port(), other.addr)).waitReady()
	if got := d.addresses("web.marathon.mesos."); got != "10.0.0.1" {
		t.Errorf("web.marathon.mesos = %s, want what the leader says", got)
	}
	for name, want := range map[string]string{
		"leader.mesos.": "127.0.0.3", "master.mesos.": "127.0.0.2 127.0.0.3 127.0.0.4", "master0.mesos.": "127.0.0.4",
		"master1.mesos.": "127.0.0.2", "master2.mesos.": "127.0.0.3",
	} {
		if got := d.addresses(name); got != want {
			t.Errorf("%s = %s, want %s", name, got, want)
		}
	}
	// A master that redirects to the leader, as since Mesos 1.0.
	other.answer(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+leader.addr+r.URL.Path, http.StatusTemporaryRedirect)
	})
	leader.say(task("127.0.0.3:1", "10.0.0.2"))
	until(t, "the state after a redirection", func() bool { return d.addresses("web.marathon.mesos.") == "10.0.0.2" })
}

func TestOldStatePage(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.answer(func(w http.ResponseWriter, r *http.Request) {
		if user, secret, _ := r.BasicAuth(); r.URL.Path != "/master/state.json" || user != "p" || secret != "s" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(task("127.0.0.1:1", "10.0.0.1"))
	})
	c := config(m.addr)
	c.Strict, c.MesosAuthentication, c.MesosCredentials = false, "basic", Credentials{"p", "s"} // Mesos-DNS does not know that page
	d := launch(t, c).waitReady()
	if got := d.addresses("web.marathon.mesos."); got != "10.0.0.1" {
		t.Errorf("web.marathon.mesos = %s, want 10.0.0.1", got)
	}
	if _, body := d.get("/v1/config", ""); strings.Contains(body, `"s"`) || !strings.Contains(body, `"Principal": "p"`) {
		t.Errorf("configuration shows %s", body)
	}
}

// Strict, what counts is whether a document can be read: its status does not, one wrong type or one PID that nobody can
// resolve refuses it, and the state of the page before Mesos 0.25 is not looked for.
func TestStrictReadsWhatMesosDNSReads(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	status := http.StatusServiceUnavailable
	document := task("127.0.0.1:1", "10.0.0.1")
	page := "/master/state"
	m.answer(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != page {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write(document)
	})
	check := func(strict, lax bool) {
		t.Helper()
		for _, c := range []struct{ strict, want bool }{{true, strict}, {false, lax}} {
			o := config(m.addr)
			o.Strict = c.strict
			s, err := newSource(o, nobody)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.fetch(t.Context(), nil); (err == nil) != c.want {
				t.Errorf("status %d of %s: strict %t: %v, want it read: %t", status, document, c.strict, err, c.want)
			}
		}
	}
	check(true, false)
	status = http.StatusOK
	check(true, true)
	document = bytes.Replace(document, []byte(`"web"`), []byte(`7`), 1)
	check(false, true)
	document = bytes.Replace(task("127.0.0.1:1", "10.0.0.1"), []byte(`10.0.0.1:5051`), []byte(`10.0.0.1:65536`), 1)
	check(false, true)
	document, page = task("127.0.0.1:1", "10.0.0.1"), "/master/state.json"
	check(false, true)
}

// What the file says of answers is in them; its keys are read in any case.
func TestKeysOfTheFileAreInAnswers(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.say(fmt.Appendf(nil, `{"leader": "master@%s", "slaves": [{"id": "a-S0", "pid": "slave(1)@10.0.0.1:5051"}], "frameworks": [{"name": "f",
		"tasks": [{"id": "t", "name": "1-web", "slave_id": "a-S0", "state": "TASK_RUNNING", "resources": {"ports": "[31000-31000]"}}]}]}`, m.addr))
	c, err := load(t, `{"MASTERS": ["`+m.addr+`"], "Listener": "127.0.0.1", "httplistener": "127.0.0.1", "externalon": false, "ipsources": ["host"],
		"srvrecorddefaultweight": 7, "TTL": 33, "recurseon": false, "enumerationOn": false, "enforcerfc952": true, "Domain": "Example",
		"soamname": "ns9.example", "SoaRname": "me@example.com", "soarefresh": 11, "soaretry": 12, "soaexpire": 13, "soaminttl": 14}`)
	if err != nil {
		t.Fatal(err)
	}
	c.Port, c.HTTPPort = 0, 0
	d := launch(t, c).waitReady()
	got := d.ask("_web._tcp.f.example.", wire.TypeSRV)
	if len(got.Answer) != 1 || got.RecursionAvailable {
		t.Fatalf("got %v, want one record and no recursion", got)
	}
	srv, _ := got.Answer[0].(*wire.SRV)
	if srv == nil || srv.Weight != 7 || srv.Hdr.Ttl != 33 || srv.Port != 31000 {
		t.Errorf("got %v, want weight 7, TTL 33, port 31000", got.Answer[0])
	}
	soa := d.ask("example.", wire.TypeSOA).Answer
	if len(soa) != 1 {
		t.Fatalf("SOA: %v", soa)
	}
	start, _ := soa[0].(*wire.SOA)
	start.Serial = 0
	if text := strings.TrimPrefix(start.String(), start.Hdr.String()); text != "ns9.example. me.example.com. 0 11 12 13 14" {
		t.Errorf("SOA %s", text)
	}
	if status, body := d.get("/v1/enumerate", ""); status != http.StatusNotFound {
		t.Errorf("enumeration that is off: %d %s", status, body)
	}
}

func TestOneServerAlone(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.say(task(m.addr, "10.0.0.1"))
	for _, off := range []string{"DnsOn", "HttpOn"} {
		c, err := load(t, `{"masters": ["`+m.addr+`"], "listener": "127.0.0.1", "HTTPListener": "127.0.0.1", "externalon": false, "`+off+`": false}`)
		if err != nil {
			t.Fatal(err)
		}
		c.Port, c.HTTPPort = 0, 0
		d := launch(t, c).waitReady()
		if (d.dns == "") != (off == "DnsOn") || (d.http == "") != (off == "HttpOn") {
			t.Errorf("%s is false: names are answered at %q, pages at %q", off, d.dns, d.http)
		}
	}
}

// A large state becomes records in pieces, of which there are several here: the zone and what it tells of are those of one piece.
func TestChangesInPiecesAreTheSameZone(t *testing.T) {
	t.Parallel()
	facts := func(leader string, moved int) *mesos.Facts {
		var doc bytes.Buffer
		fmt.Fprintf(&doc, `{"leader": "master@%s:5050", "slaves": [{"id": "a-S0", "pid": "slave(1)@10.0.0.1:5051"}], "frameworks": [{"name": "f", "tasks": [`, leader)
		for i := range 2*changesAtOnce + 1 {
			host := i
			if i < moved {
				host++
			}
			fmt.Fprintf(&doc, `%s{"id": "t%d", "name": "web-%d", "slave_id": "a-S0", "state": "TASK_RUNNING", "statuses": [{"state": "TASK_RUNNING",
				"container_status": {"network_infos": [{"ip_addresses": [{"ip_address": "10.1.%d.%d"}]}]}}]}`,
				map[bool]string{true: "", false: ","}[i == 0], i, i/3, host>>8, host&0xff)
		}
		doc.WriteString(`]}]}`)
		state, err := mesos.Parse(doc.Bytes(), true)
		if err != nil {
			t.Fatal(err)
		}
		return state.Facts(mesos.Options{})
	}
	c := config("10.0.0.9:5050")
	c.IPSources = []string{"netinfo"}
	whole := zone.New(c.zone(nil))
	pieces := whole
	var before *mesos.Facts
	for _, next := range []*mesos.Facts{facts("10.0.0.9", 0), facts("10.0.0.9", 1500), facts("10.0.0.8", 1500), facts("10.0.0.8", 0)} {
		changes := next.Changes(before)
		var want, got zone.Diff
		whole, want = whole.With(changes)
		pieces, got = changed(pieces, changes)
		if !slices.Equal(slices.Collect(pieces.All), slices.Collect(whole.All)) || pieces.Records() != whole.Records() {
			t.Fatalf("%d changes in pieces give other records", len(changes))
		}
		told := map[zone.Question]int{}
		for _, q := range got.Questions {
			told[q]++
		}
		for _, q := range want.Questions {
			if told[q] != 1 {
				t.Fatalf("%v is told of %d times", q, told[q])
			}
		}
		if !slices.IsSortedFunc(got.Questions, zone.Question.Compare) {
			t.Error("questions are in no order")
		}
		before = next
	}
}

// Masters that ZooKeeper has are those that there are: Mesos-DNS forgets the listed ones.
func TestMastersOfZooKeeperAndOfTheList(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.say(task(m.addr, "10.0.0.1"))
	for strict, want := range map[bool]bool{true: false, false: true} {
		c := config("10.9.0.9:5050")
		c.Strict = strict
		s, err := newSource(c, nobody)
		if err != nil {
			t.Fatal(err)
		}
		facts, err := s.fetch(t.Context(), []string{m.addr})
		if err != nil {
			t.Fatal(err)
		}
		z, _ := zone.New(c.zone(nil)).With(facts.Changes(nil))
		if got := z.Lookup("", "master1.mesos.").Exists; got != want {
			t.Errorf("strict %t: a listed master has a name: %t, want %t", strict, got, want)
		}
	}
}

// At 0.0.0.0 the server's name has the addresses that this host has now.
func TestServerIsWhereTheHostIs(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.say(task(m.addr, "10.0.0.1"))
	c := config(m.addr)
	c.Listener = "0.0.0.0"
	var host atomic.Pointer[netip.Addr]
	at := func(text string) {
		a := netip.MustParseAddr(text)
		host.Store(&a)
	}
	at("192.0.2.9")
	d := launchReading(t, c, 20*time.Millisecond, func(d *Daemon) {
		d.local = func() ([]netip.Addr, error) { return []netip.Addr{*host.Load()}, nil }
	})
	d.waitReady()
	for _, text := range []string{"192.0.2.1", "192.0.2.2"} {
		at(text)
		until(t, "the server is at "+text, func() bool { return d.addresses("ns1.mesos.") == text })
	}
	if got := d.addresses("web.marathon.mesos."); got != "10.0.0.1" {
		t.Errorf("web.marathon.mesos = %s, want 10.0.0.1", got)
	}
}

// Nobody is answered before the first state; what was read stays when masters fail.
func TestStateThatCannotBeReadChangesNothing(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	d := launch(t, config(m.addr))
	until(t, "two attempts", func() bool { return m.asked.Load() >= 4 }) // two pages each
	select {
	case <-d.ready:
		t.Fatal("ready without a state")
	default:
	}
	m.say(task("127.0.0.1:1", "10.0.0.1"))
	d.waitReady()
	for _, bad := range []string{"", "{", `{"leader": ""}`, "<html>"} {
		asked := m.asked.Load()
		m.say([]byte(bad))
		until(t, "two attempts", func() bool { return m.asked.Load() >= asked+2 })
		if got := d.addresses("web.marathon.mesos."); got != "10.0.0.1" {
			t.Errorf("after %q web.marathon.mesos = %s, want what was true before", bad, got)
		}
	}
	if log := d.logged(); !strings.Contains(log, "state not read") || !strings.Contains(log, m.addr) {
		t.Errorf("log: %s", log)
	}
	m.say(task("127.0.0.1:1", "10.0.0.2"))
	until(t, "the new state", func() bool { return d.addresses("web.marathon.mesos.") == "10.0.0.2" })
}

func TestForeignNamesAreRefusedOrForwarded(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.say(task("127.0.0.1:1", "10.0.0.1"))
	d := launch(t, config(m.addr)).waitReady()
	if got := d.ask("example.com.", wire.TypeA); got.Rcode != wire.RcodeRefused {
		t.Errorf("foreign name: %v, want REFUSED", got)
	}
	// The first daemon is a resolver for the second one.
	c := config(m.addr)
	c.Domain, c.ExternalOn, c.Resolvers = "other", true, []string{d.dns}
	c.Strict = false
	second := launch(t, c).waitReady()
	if got := second.addresses("web.marathon.mesos."); got != "10.0.0.1" {
		t.Errorf("forwarded: %s, want 10.0.0.1", got)
	}
	if got := second.addresses("web.marathon.other."); got != "10.0.0.1" {
		t.Errorf("own: %s, want 10.0.0.1", got)
	}
}

// Without resolvers those of the host are asked, and shown: in their order, but for the host itself.
func TestResolversOfTheHost(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	text := "search a.example\nnameserver 127.0.0.1\nnameserver 2001:db8::53\nnameserver ::1\nnameserver 192.0.2.53\nnameserver none\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := hostResolvers(path)
	if d := gocmp.Diff(got, []string{"2001:db8::53", "192.0.2.53"}); d != "" || err != nil {
		t.Errorf("%v (got -, want +):\n%s", err, d)
	}
	if _, err := hostResolvers(path + ".none"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
}

func TestPortInUseEndsTheDaemon(t *testing.T) {
	m := newMaster(t, "127.0.0.1:0")
	m.say(task("127.0.0.1:1", "10.0.0.1"))
	c := config(m.addr)
	if _, err := fmt.Sscan(m.port(), &c.HTTPPort); err != nil {
		t.Fatal(err)
	}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	d, err := New(c, "1", nobody)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), m.addr) {
		t.Errorf("Run = %v, want an error that names %s", err, m.addr)
	}
}
