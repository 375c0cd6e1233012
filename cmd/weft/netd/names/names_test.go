// SPDX-License-Identifier: Apache-2.0

package names

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/discovery/zone"
)

func readText(t *testing.T, text string) (Static, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "names.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(path)
}

func TestStaticNamesAreInTheZone(t *testing.T) {
	s, err := readText(t, `{
		"ttl": "60s", "rate": 500, "order": "fixed", "key": "YD7nqxz5d6fyr1ejkmcpqxot1uwisza345h769ybndrfg8ejkmcp",
		"zones": {"corp.example": {"ttl": "20s"}, "mesos": {"health": true}, "weft": {"ttl": "2s", "health": false}},
		"records": [
			{"name": "DB.corp.example.", "type": "A", "value": "10.0.0.9"},
			{"name": "db.corp.example", "type": "AAAA", "value": "fd00::9", "ttl": 30},
			{"name": "_pg._tcp.corp.example", "type": "SRV", "value": "db.corp.example:5432"},
			{"name": "www.corp.example", "type": "CNAME", "value": "db.corp.example"},
			{"name": "legacy.mesos", "type": "A", "value": "10.0.0.10", "network": "prod"}
		],
		"forward": {"example.com": ["192.0.2.53"], "eu.example.com": ["[2001:db8::53]:5353"]}
	}`)
	if err != nil {
		t.Fatal(err)
	}
	z := zone.New(zone.Options{Key: s.Key, TTL: s.TTL, TTLs: s.TTLs, Heeding: s.Heeding, Zones: s.Zones, Static: s.Records}).Completed()
	for name, want := range map[string]int{"db.corp.example.": 2, "_pg._tcp.corp.example.": 1, "legacy.mesos.": 1, "corp.example.": 2, "www.corp.example.": 1} {
		look := z.Lookup("", name)
		if len(look.Records) != want {
			t.Errorf("%s has %v, want %d records", name, look.Records, want)
		}
	}
	if name, former := z.Present("x.l4lb.yd7nqxz5d6fyr1ejkmcpqxot1uwisza345h769ybndrfg8ejkmcp.dcos.directory."); name != "x.l4lb.thisdcos.directory." || !former {
		t.Errorf("a name by the cluster's key is %s", name)
	}
	if len(z.Lookup("dev", "legacy.mesos.").Records) != 0 || len(z.Lookup("prod", "legacy.mesos.").Records) != 1 {
		t.Error("a record of one network is seen from another, or not from its own")
	}
	if r := z.Lookup("", "db.corp.example.").Records[0]; r.TTL != 20 || !strings.HasPrefix(r.From, "static/") {
		t.Errorf("%+v: a TTL of 20 and the file's name are wanted", r)
	}
	if diff := cmp.Diff([]any{s.Heeding, s.TTLs["weft"], s.Zones}, []any{[]string{"mesos"}, 2 * time.Second, []string{"corp.example"}}); diff != "" {
		t.Errorf("zones (got -, want +):\n%s", diff)
	}
	if s.TTL != time.Minute || s.Rate != 500 || !s.Fixed || s.Forward["eu.example.com."][0] != netip.MustParseAddrPort("[2001:db8::53]:5353") {
		t.Errorf("read: %+v", s)
	}
}

func TestWrongNamesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		`{"ttl": "1.5s"}`:                    `ttl is "1.5s": whole seconds are allowed`,
		`{"zones": {"a..b": {}}}`:            `zones: "a..b" is no name`,
		`{"zones": {"weft": {"ttl": "0s"}}}`: `zones: weft: ttl is "0s"`,
		`{"zones": {"a.mesos": {}}}`:         `zones: "a.mesos" is in the zone mesos`,
		`{"records": [{"name": "mesos", "type": "CNAME", "value": "b.mesos"}]}`:                                                             `records[0]: name is "mesos": a zone itself is no alias`,
		`{"records": [{"name": "a.mesos", "type": "CNAME", "value": "b.mesos"}, {"name": "a.mesos", "type": "A", "value": "10.0.0.1"}]}`:    `records[1]: a.mesos is an alias by records[0]`,
		`{"records": [{"name": "a.mesos", "type": "CNAME", "value": "b.mesos"}, {"name": "a.mesos", "type": "CNAME", "value": "c.mesos"}]}`: `records[1]: a.mesos is an alias by records[0]`,
		`{"forward": {"a.b": []}}`:      `forward: a.b has no resolver`,
		`{"forward": {"a.b": ["ns1"]}}`: `forward: a.b: resolver is "ns1"`,
		`{"records": [{"name": "a.example.com", "type": "A", "value": "10.0.0.1"}]}`: `records[0]: name is "a.example.com": one in [] or in Weft's own zones`,
		`{"records": [{"name": "a.mesos", "type": "A", "value": "fd00::1"}]}`:        `records[0]: value is "fd00::1": for type A`,
		`{"records": [{"name": "a.mesos", "type": "TXT", "value": "x"}]}`:            `records[0]: type is "TXT": A, AAAA, CNAME, PTR and SRV are allowed`,
		`{"records": [{"name": "a.mesos", "type": "SRV", "value": "b.mesos"}]}`:      `records[0]: value is "b.mesos": a name and a port`,
		`{"records": [{"name": "a.mesos", "type": "SRV", "value": "b.mesos:80x"}]}`:  `records[0]: value is "b.mesos:80x": a name and a port`,
		`{"key": "abc"}`:      `key is "abc": 52 characters of z-base-32`,
		`{"order": "random"}`: `order is "random": rotate and fixed are allowed`,
		`{"recrods": []}`:     `unknown field "recrods"`,
	} {
		if _, err := readText(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestExampleOfTheDocsIsRead: what docs/dns-operations.md shows is a file that netd takes.
func TestExampleOfTheDocsIsRead(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/dns-operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("there is no example")
	}
	if s, err := readText(t, example); err != nil || len(s.Records) == 0 || len(s.Forward) == 0 || len(s.Zones) == 0 {
		t.Errorf("it gives %+v, %v", s, err)
	}
}
