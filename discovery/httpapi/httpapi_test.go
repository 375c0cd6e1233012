// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"weft/discovery"
	"weft/discovery/mesos"
	"weft/discovery/zone"
)

// served are the requests of a test to a handler over a recorded state.
type served struct {
	t *testing.T
	http.Handler
}

func serve(t *testing.T, change func(*Options)) served {
	t.Helper()
	z, facts := state(t, "../mesos/testdata/golden/000-upstream-fake", configurations()["rfc1123"])
	o := Options{
		Snapshot: func() Snapshot { return Snapshot{z.Dated(7), facts.Listing()} },
		Service:  "Mesos-DNS", URL: "https://example.com", Version: "1.2", Enumeration: true, Refresh: 30 * time.Second,
		Config: func() any { return map[string]int{"Port": 53} },
	}
	if change != nil {
		change(&o)
	}
	return served{t, New(o)}
}

func (s served) do(method, path, accept string) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, path, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func (s served) check(path, want string) {
	s.t.Helper()
	w := s.do(http.MethodGet, path, "")
	if d := gocmp.Diff(w.Body.String(), want); d != "" || w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		s.t.Errorf("%s: %d %s (got -, want +):\n%s", path, w.Code, w.Header().Get("Content-Type"), d)
	}
}

// The bytes are Mesos-DNS's: who reads them may not have a JSON parser.
func TestPagesToTheByte(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	s.check("/v1/version", "{\n  \"Service\": \"Mesos-DNS\",\n  \"URL\": \"https://example.com\",\n  \"Version\": \"1.2\"\n }")
	s.check("/v1/version/", "{\n  \"Service\": \"Mesos-DNS\",\n  \"URL\": \"https://example.com\",\n  \"Version\": \"1.2\"\n }")
	s.check("/v1/config", "{\n  \"Port\": 53\n }")
	leader := "[\n  {\n   \"host\": \"leader.mesos.\",\n   \"ip\": \"127.0.0.1\"\n  }\n ]"
	for _, name := range []string{"leader.mesos", "leader.mesos.", "LEADER.Mesos", "leader.*.mesos"} {
		s.check("/v1/hosts/"+name, leader)
	}
	s.check("/v1/hosts/missing.mesos", "[\n  {\n   \"host\": \"\",\n   \"ip\": \"\"\n  }\n ]")
	s.check("/v1/hosts/example.com", "[\n  {\n   \"host\": \"\",\n   \"ip\": \"\"\n  }\n ]")
	s.check("/v1/hosts/.*", "[\n  {\n   \"host\": \"\",\n   \"ip\": \"\"\n  }\n ]")
	s.check("/v1/services/_Leader._tcp.mesos",
		"[\n  {\n   \"service\": \"_Leader._tcp.mesos\",\n   \"host\": \"leader.mesos.\",\n   \"ip\": \"127.0.0.1\",\n   \"port\": \"15050\"\n  }\n ]")
	s.check("/v1/services/_missing._tcp.marathon.mesos",
		"[\n  {\n   \"service\": \"\",\n   \"host\": \"\",\n   \"ip\": \"\",\n   \"port\": \"\"\n  }\n ]")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	check := func(s served, method, path, accept string, status int, body string) {
		t.Helper()
		w := s.do(method, path, accept)
		if w.Code != status || body != "" && w.Body.String() != body {
			t.Errorf("%s %s accepting %q: %d %q, want %d %q", method, path, accept, w.Code, w.Body, status, body)
		}
	}
	check(s, http.MethodGet, "/", "", 404, "404: Page Not Found")
	check(s, http.MethodGet, "/v1/nothing", "", 404, "404: Page Not Found")
	check(s, http.MethodGet, "/v1/hosts/", "", 404, "404: Page Not Found")
	check(s, http.MethodPost, "/v1/version", "", 405, "405: Method Not Allowed")
	check(s, http.MethodDelete, "/v1/hosts/leader.mesos", "", 405, "405: Method Not Allowed")
	check(s, http.MethodGet, "/v1/version", "text/html", 406, "406: Not Acceptable")
	check(s, http.MethodGet, "/v1/version", "text/html, */*;q=0.1", 200, "")
	check(s, http.MethodGet, "/v1/version", "Application/JSON; charset=utf-8", 200, "")
	check(s, http.MethodGet, "/v1/hosts/leader.mesos/ports", "", 501, "To be implemented...")
	check(s, http.MethodGet, "/v1/axfr", "", 200, "")
	off := serve(t, func(o *Options) { o.Enumeration, o.Config = false, nil })
	for _, path := range []string{"/v1/axfr", "/v1/enumerate", "/v1/config"} {
		check(off, http.MethodGet, path, "", 404, "404: Page Not Found")
	}
	broken := serve(t, func(o *Options) { o.Config = func() any { return func() {} } })
	check(broken, http.MethodGet, "/v1/config", "", 500, "500: Internal Server Error")
}

func TestEveryInstanceIsListed(t *testing.T) {
	t.Parallel()
	s := serve(t, nil)
	var hosts []hostRecord
	body := s.do(http.MethodGet, "/v1/hosts/liquor-store.marathon.mesos", "").Body.Bytes()
	if err := json.Unmarshal(body, &hosts); err != nil {
		t.Fatal(err)
	}
	first := map[string]bool{}
	for range 100 {
		var again []hostRecord
		body := s.do(http.MethodGet, "/v1/hosts/liquor-store.marathon.mesos", "").Body.Bytes()
		if err := json.Unmarshal(body, &again); err != nil {
			t.Fatal(err)
		}
		first[again[0].IP] = true
	}
	slices.SortFunc(hosts, func(a, b hostRecord) int { return strings.Compare(a.IP, b.IP) })
	want := []hostRecord{{"liquor-store.marathon.mesos.", "1.2.3.11"}, {"liquor-store.marathon.mesos.", "1.2.3.12"}}
	if d := gocmp.Diff(hosts, want); d != "" || len(first) != 2 {
		t.Errorf("hosts (got -, want +), %d come first:\n%s", len(first), d)
	}
}

// What a master says cannot break an answer: ports that are none and targets that cannot be taken
// apart.
func TestOddRecords(t *testing.T) {
	t.Parallel()
	z, _ := zone.New(zone.Options{MesosOnly: true, Strict: true}).With([]zone.Change{{
		Source: zone.Source{Key: "t"},
		Fact: zone.MesosTask{
			Framework: "fw", ID: "test", Agent: "a-S1", AgentAddrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Discovery: "a:b",
			Ports: []zone.MesosPort{{Protocol: "tcp", Number: 70000}},
		},
	}})
	s := served{t, New(Options{Snapshot: func() Snapshot { return Snapshot{Zone: z} }})}
	s.check("/v1/services/_ab._tcp.fw.mesos",
		"[\n  {\n   \"service\": \"_ab._tcp.fw.mesos\",\n   \"host\": \"ab-iffe9-s1.fw.mesos.\",\n   \"ip\": \"10.0.0.1\",\n   \"port\": \"70000\"\n  }\n ]")
	s.check("/v1/services/_a:b._tcp.fw.mesos",
		"[\n  {\n   \"service\": \"\",\n   \"host\": \"\",\n   \"ip\": \"\",\n   \"port\": \"\"\n  }\n ]")
}

// A zone of Weft's own facts is shown in the same form, without the zones that Mesos-DNS does not have.
func TestZoneOfOwnFacts(t *testing.T) {
	t.Parallel()
	z, _ := zone.New(zone.Options{Servers: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}).With([]zone.Change{{
		Source: zone.Source{Kind: discovery.KindName, Key: "t1", Writer: "host-a"},
		Fact: zone.Task{Name: discovery.Name{
			Task: "t1", Label: "web", Node: "host-a", Addrs: []netip.Addr{netip.MustParseAddr("9.0.0.2")},
			Ports: []discovery.NamedPort{{Protocol: "tcp", Port: 80}},
		}},
	}})
	want := Transfer{
		TTL: 5, Serial: 1, RefreshSeconds: 1, Mname: "ns1.mesos.", Rname: "root.ns1.mesos.", Domain: "mesos",
		Records: TransferRecords{
			As: map[string][]string{
				"ns1.mesos.": {"198.51.100.1"}, "web.weft.mesos.": {"9.0.0.2"}, "web-hw4uo-a.weft.mesos.": {"9.0.0.2"},
			},
			AAAAs: map[string][]string{}, SRVs: map[string][]string{"_web._tcp.weft.mesos.": {"web-hw4uo-a.weft.mesos.:80"}},
		},
	}
	z = z.Dated(1)
	if d := gocmp.Diff(NewTransfer(z, time.Second), want); d != "" {
		t.Errorf("transfer (got -, want +):\n%s", d)
	}
	e := NewEnumeration(z, z.Listing())
	tasks := []EnumeratedTask{{"web", "t1", []EnumeratedRecord{
		{"web.weft.mesos.", "9.0.0.2", "A"},
		{"web-hw4uo-a.weft.mesos.", "9.0.0.2", "A"},
		{"_web._tcp.weft.mesos.", "web-hw4uo-a.weft.mesos.:80", "SRV"},
	}}}
	if d := gocmp.Diff(e, Enumeration{[]EnumeratedFramework{{tasks, "weft"}}}); d != "" {
		t.Errorf("enumeration (got -, want +):\n%s", d)
	}
}

func FuzzNames(f *testing.F) {
	s, err := mesos.Parse([]byte(`{"leader": "master@127.0.0.1:5050"}`), false)
	if err != nil {
		f.Fatal(err)
	}
	z, _ := zone.New(zone.Options{MesosOnly: true}).With(s.Facts(mesos.Options{}).Changes(nil))
	a := api{Options{Snapshot: func() Snapshot { return Snapshot{Zone: z} }}}
	for _, name := range []string{"", ".", ".*", "leader.mesos", "_leader._tcp.mesos.", "\x00", "a/b"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, page := range []http.HandlerFunc{a.hosts, a.services} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.SetPathValue("name", name)
			w := httptest.NewRecorder()
			page(w, r)
			var list []map[string]string
			if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list) == 0 {
				t.Errorf("%q: %v %s", name, err, w.Body)
			}
		}
	})
}
