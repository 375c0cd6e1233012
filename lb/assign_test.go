// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCollidingNamesGetTheNextAddress(t *testing.T) {
	t.Parallel()
	for _, line := range readLines(t, "testdata/collisions.tsv") {
		fields := strings.Split(line, "\t")
		first, err := Assign(nil, fields[0])
		if err != nil {
			t.Fatal(err)
		}
		slot, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		if first.Addr4 != addr4(uint32(slot)) {
			t.Errorf("%s: %s, want slot %d", fields[0], first.Addr4, slot)
		}
		if first.Addr4 != HashAddr4(fields[0]) || first.Addr6 != HashAddr6(fields[0]) {
			t.Errorf("%s alone: %v, want its hash addresses", fields[0], first)
		}
		if fields[1] == "-" {
			continue
		}
		if HashAddr4(fields[1]) != first.Addr4 {
			t.Errorf("%s alone: %s, want that of %s", fields[1], HashAddr4(fields[1]), fields[0])
		}
		second, err := Assign([]Pin{first}, fields[1])
		if err != nil {
			t.Fatal(err)
		}
		if second.Addr4 != first.Addr4.Next() {
			t.Errorf("%s after %s: %s, want %s", fields[1], fields[0], second.Addr4, first.Addr4.Next())
		}
	}
}

func TestAssignStepsRoundLiteralsAndKeepsPins(t *testing.T) {
	t.Parallel()
	name := "web.weft"
	a, err := Assign(nil, name, HashAddr4(name), HashAddr6(name))
	if err != nil {
		t.Fatal(err)
	}
	if a.Addr4 != HashAddr4(name).Next() || a.Addr6 != HashAddr6(name).Next() {
		t.Errorf("%v, want the addresses after the literals", a)
	}
	again, err := Assign([]Pin{a}, name)
	if err != nil || again != a {
		t.Errorf("%v %v, want the pin that there is: %v", again, err, a)
	}
	if _, err := Assign(nil, ""); err == nil {
		t.Error("an empty name got an address")
	}
}

func TestAssignWrapsAtTheEndOfTheRange(t *testing.T) {
	t.Parallel()
	taken := map[netip.Addr]bool{addr4(span4): true, addr4(0): true}
	got, ok := firstFree(span4, span4, taken, func(o uint64) netip.Addr { return addr4(uint32(o)) })
	if want := netip.MustParseAddr("11.0.0.1"); !ok || got != want {
		t.Errorf("%s %t, want %s", got, ok, want)
	}
	got, ok = firstFree(span6, span6, map[netip.Addr]bool{addr6(span6): true}, addr6)
	if want := netip.MustParseAddr("fd01:c::"); !ok || got != want {
		t.Errorf("%s %t, want %s", got, ok, want)
	}
}

func TestNoTwoNamesShareAnAddress(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfDistinct(rapid.StringMatching(`(svc-(883|2367|5297|5571)|[a-c]{1,3})\.marathon`), rapid.ID).Draw(t, "names")
		var pins []Pin
		seen := make(map[netip.Addr]string)
		for _, name := range names {
			p, err := Assign(pins, name)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range []netip.Addr{p.Addr4, p.Addr6} {
				if seen[a] != "" {
					t.Fatalf("%s and %s share %s", seen[a], name, a)
				}
				seen[a] = name
			}
			if !netip.MustParsePrefix("11.0.0.0/8").Contains(p.Addr4) || !netip.MustParsePrefix("fd01:c::/64").Contains(p.Addr6) {
				t.Fatalf("%v is outside of the ranges", p)
			}
			pins = append(pins, p)
		}
	})
}
