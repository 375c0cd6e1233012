// SPDX-License-Identifier: Apache-2.0

package dnsname

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The rows are those of the label tables that Mesos-DNS's own tests have, and what follows the cut.
func TestSpecLabels(t *testing.T) {
	t.Parallel()
	a := func(n int) string { return strings.Repeat("a", n) }
	check := func(s Rule, text, want string) {
		t.Helper()
		if got := s.Label(text); got != want {
			t.Errorf("label of %q within %d = %q, want %q", text, s.limit, got, want)
		}
	}
	for _, s := range []Rule{RFC1123, RFC952} {
		check(s, "", "")
		check(s, "...", "")
		check(s, "a-", "a")
		check(s, "-a", "a")
		check(s, "-a--_.", "a")
		check(s, "some@thing", "something")
		check(s, "foo bar", "foobar")
		check(s, "foo.bar_Baz", "foo-bar-baz")
		check(s, "café\xff\u212a", "caf") // the Kelvin sign is no k
	}
	check(RFC1123, "4abc123", "4abc123")
	check(RFC952, "4abc123", "abc123")
	check(RFC952, "-4-2", "")
	check(RFC952, "89f.gsf---g_7-fgs--d7fddg-", "f-gsf---g-7-fgs--d7fddg")
	check(RFC1123, "89f.gsf---g_7-fgs--d7fddg-", "89f-gsf---g-7-fgs--d7fddg")
	check(RFC952, "fd%gsf---gs7-f$gs--d7fddg-123", "fdgsf---gs7-fgs--d7fddg1")
	check(RFC1123, a(70), a(63))
	check(RFC952, a(70), a(24))
	check(RFC1123, a(62)+"-b", a(62)+"b")
	check(RFC1123, a(60)+"----bcdef", a(60)+"bcd")
	check(RFC1123, a(61)+"--b-c", a(61)+"b-") // as it is: what fills is not looked at again
}

func TestSpecLabelProperties(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.RuneFrom([]rune("ab9-._Z/ é")), 0, 90, -1))
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom([]Rule{RFC1123, RFC952}).Draw(t, "rule")
		in := text.Draw(t, "text")
		l := s.Label(in)
		if len(l) > s.limit || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Fatalf("label %q has %d characters", l, len(l))
		}
		if l != "" && strings.ContainsAny(l[:1], s.left) {
			t.Fatalf("label %q begins with %q", l, l[:1])
		}
		if l != s.Label(strings.ToUpper(l)) && !strings.HasSuffix(l, "-") {
			t.Fatalf("label of %q is %q", l, s.Label(strings.ToUpper(l)))
		}
		if (l == "") != (strings.Trim(Mangle(in), s.left) == "") {
			t.Fatalf("label %q of %q", l, in)
		}
		if short := Clean(in); s == RFC1123 && len(short) <= MaxLabel && l != short {
			t.Fatalf("short label %q, want %q", l, short)
		}
		d := s.Domain(in)
		for part := range strings.SplitSeq(d, ".") {
			if d != "" && (part == "" || s.Label(part) != part && !strings.HasSuffix(part, "-")) {
				t.Fatalf("domain %q has part %q", d, part)
			}
		}
	})
}

func TestHashIsZBase32OfSHA1(t *testing.T) {
	t.Parallel()
	if got, want := Hash("test"), "iffe9"; got != want {
		t.Errorf("Hash(test) = %s, want %s", got, want)
	}
}

// The pairs are what Mesos-DNS 0.9 made of these names.
func TestLabelsAreThoseOfMesosDNS(t *testing.T) {
	t.Parallel()
	for name, want := range pairs(t, "testdata/labels.jsonl") {
		if got := Label(name); got != want {
			t.Errorf("Label(%q) = %q, want %q", name, got, want)
		}
		if got := RFC1123.Label(name); got != want {
			t.Errorf("label of %q = %q, want %q", name, got, want)
		}
	}
	for name, want := range pairs(t, "testdata/frameworks.jsonl") {
		if got := Domain(name); got != want {
			t.Errorf("Domain(%q) = %q, want %q", name, got, want)
		}
		if got := RFC1123.Domain(name); got != want {
			t.Errorf("domain of %q = %q, want %q", name, got, want)
		}
	}
}

func pairs(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	m := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		var p [2]string
		if err := json.Unmarshal(s.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		m[p[0]] = p[1]
	}
	if len(m) < 40 {
		t.Fatalf("%s: %d pairs, want 40 or more", path, len(m))
	}
	return m
}

func TestCanonicalFitsInALabel(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 60) + "-yz"
	check := func(label, node, want string) {
		t.Helper()
		got := Canonical(label, "test", node)
		if got != want || len(got) > MaxLabel {
			t.Errorf("Canonical(%q, %q) = %q (%d), want %q", label, node, got, len(got), want)
		}
	}
	check("web", "0a1399a2-fe1f-S12", "web-iffe9-s12")
	check("web", "NOHYPHEN", "web-iffe9-nohyphen")
	check("web", "host-", "web-iffe9")
	check(long, "host-a", strings.Repeat("x", 55)+"-iffe9-a")
	check("a"+strings.Repeat("-", 54)+"bc", "h-a", "a"+"bc"+"-iffe9-a")
	check(long, strings.Repeat("n", 63), strings.Repeat("x", 32)+"-iffe9-"+strings.Repeat("n", 24))
}

func TestEveryNameHasItsOwnPlace(t *testing.T) {
	t.Parallel()
	names := []string{".", "a.", ".a.", "..a.", "b.a.", "b..a.", ".b.a.", "a.b.", "a..b.", "a..", "ab.", `a\.b.`}
	places := map[string]string{}
	for _, n := range names {
		k := string(Key(n))
		if places[k] != "" {
			t.Errorf("%q and %q are in one place, %q", n, places[k], k)
		}
		places[k] = n
	}
}
