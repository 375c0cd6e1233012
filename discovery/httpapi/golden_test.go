// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"weft/discovery/mesos"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// The configurations under which Mesos-DNS answered.
func configurations() map[string]zone.Options {
	base := zone.Options{
		TTL: time.Minute, Servers: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, MesosOnly: true, Strict: true, Weight: 1,
	}
	dcos, old := base, base
	dcos.IPSources = []zone.IPSource{zone.FromHost, zone.FromNetinfo}
	old.IPSources = []zone.IPSource{zone.FromNetinfo, zone.FromDocker, zone.FromMesos, zone.FromHost}
	old.RFC952 = true
	return map[string]zone.Options{"rfc1123": dcos, "rfc952": old, "default-sources": base}
}

// state loads a case into a zone.
func state(t *testing.T, dir string, o zone.Options) (*zone.Zone, *mesos.Facts) {
	t.Helper()
	document, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := mesos.Parse(document, o.Strict)
	if err != nil {
		t.Fatal(err)
	}
	facts := s.Facts(mesos.Options{
		Masters:  []string{"127.0.0.1:15050"},
		Resolved: map[string][]netip.Addr{"localhost": {netip.MustParseAddr("127.0.0.1")}}, // as when it was recorded
	})
	z, _ := zone.New(o).With(facts.Changes(nil))
	return z.Completed(), facts
}

func cases(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("../mesos/testdata/golden/*")
	if err != nil || len(dirs) < 38 {
		t.Fatalf("%d cases, %v, want 38 or more", len(dirs), err)
	}
	return dirs
}

func read[T any](t *testing.T, path string) (document T) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	return document
}

// sorted puts a document into the order in which Mesos-DNS's were recorded.
func (t Transfer) sorted() Transfer {
	for _, values := range []map[string][]string{t.Records.As, t.Records.AAAAs, t.Records.SRVs} {
		for _, v := range values {
			slices.Sort(v)
		}
	}
	return t
}

func (e Enumeration) sorted() Enumeration {
	for _, f := range e.Frameworks {
		slices.SortFunc(f.Tasks, func(a, b EnumeratedTask) int { return strings.Compare(a.ID, b.ID) })
		for _, t := range f.Tasks {
			slices.SortFunc(t.Records, func(a, b EnumeratedRecord) int {
				return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Host, b.Host), strings.Compare(a.Type, b.Type))
			})
		}
	}
	return e
}

func TestTransferIsThatOfMesosDNS(t *testing.T) {
	t.Parallel()
	for name, o := range configurations() {
		for _, dir := range cases(t) {
			z, _ := state(t, dir, o)
			want := read[Transfer](t, filepath.Join(dir, "axfr."+name+".json"))
			if d := gocmp.Diff(NewTransfer(z.Dated(0), time.Second).sorted(), want.sorted()); d != "" {
				t.Errorf("%s %s (got -, want +):\n%s", name, dir, d)
			}
		}
	}
}

// States that nobody would write, as Mesos-DNS answered for them (recorded from it for Weft): strange names, hosts and ports,
// ids that are there twice. Here the order of /v1/enumerate counts too.
func TestOddStatesAreAnsweredAsByMesosDNS(t *testing.T) {
	t.Parallel()
	dirs, err := filepath.Glob("../mesos/testdata/recorded/*")
	if err != nil || len(dirs) < 6 {
		t.Fatalf("%d states, %v, want 6 or more", len(dirs), err)
	}
	for name, o := range configurations() {
		for _, dir := range dirs {
			z, facts := state(t, dir, o)
			want := read[Transfer](t, filepath.Join(dir, "axfr."+name+".json"))
			if d := gocmp.Diff(NewTransfer(z.Dated(0), time.Second).sorted(), want.sorted()); d != "" {
				t.Errorf("%s %s (got -, want +):\n%s", name, dir, d)
			}
			listed := read[Enumeration](t, filepath.Join(dir, "enumerate."+name+".json"))
			if d := gocmp.Diff(NewEnumeration(z, facts.Listing()), listed); d != "" {
				t.Errorf("%s %s (got -, want +):\n%s", name, dir, d)
			}
		}
	}
}

// mesos.thisdcos.directory has every record that Mesos-DNS gives away (dcos-net makes it of /v1/axfr).
func TestMirrorHasEveryRecordOfMesosDNS(t *testing.T) {
	t.Parallel()
	const apex = "mesos.thisdcos.directory."
	mirrored := func(name string) string {
		if rest, ok := strings.CutSuffix(name, "mesos."); ok {
			return rest + apex
		}
		return name
	}
	o := configurations()["rfc1123"]
	o.MesosOnly = false
	records, left := 0, 0
	for _, dir := range cases(t) {
		z, _ := state(t, dir, o)
		transfer := read[Transfer](t, filepath.Join(dir, "axfr.rfc1123.json")).Records
		for kind, names := range map[record.Type]map[string][]string{record.A: transfer.As, record.AAAA: transfer.AAAAs, record.SRV: transfer.SRVs} {
			for name, want := range names {
				var got []string
				for _, r := range z.Lookup("", mirrored(name)).Of(kind) {
					got = append(got, r.Value())
				}
				for _, value := range want {
					if target, port, ok := strings.Cut(value, ".:"); ok && kind == record.SRV {
						value = strings.TrimSuffix(mirrored(target+"."), ".") + ".:" + port
					}
					records++
					if len(mirrored(name)) > 255 || len(value) > 255 || strings.HasSuffix(value, ".:0") {
						left++ // no name, no port
					} else if !slices.Contains(got, value) {
						t.Errorf("%s: %s %s has no %s, only %q", dir, kind, mirrored(name), value, got)
					}
				}
			}
		}
	}
	if records < 5000 || left > 100 {
		t.Errorf("%d records, %d of them too long, want most of 5,000", records, left)
	}
}

func TestEnumerationIsThatOfMesosDNS(t *testing.T) {
	t.Parallel()
	for name, o := range configurations() {
		for _, dir := range cases(t) {
			z, facts := state(t, dir, o)
			want := read[Enumeration](t, filepath.Join(dir, "enumerate."+name+".json"))
			if d := gocmp.Diff(NewEnumeration(z, facts.Listing()).sorted(), want.sorted()); d != "" {
				t.Errorf("%s %s (got -, want +):\n%s", name, dir, d)
			}
		}
	}
}
