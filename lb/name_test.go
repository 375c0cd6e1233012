// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMangle(t *testing.T) {
	t.Parallel()
	a := func(n int) string { return strings.Repeat("a", n) }
	for _, c := range []struct{ label, framework, want string }{
		{"web", "weft", "web.weft"},
		{"/web", "weft", "web.weft"},
		{"/group/app", "marathon", "groupapp.marathon"},
		{"/api.hello-world", "hello-world", "api.hello-world.hello-world"},
		{"Web_1", "folder/kafka", "web-1.folderkafka"},
		{"--a--", "beta-kafka", "a.beta-kafka"},
		{"a..b.", "weft", "a.b.weft"},
		{"/./a", "weft", "a.weft"},
		{"ä1", "weft", "1.weft"},
		{"my app", "weft", "myapp.weft"}, // labels as people write them in DC/OS (net.md B2, B3)
		{" web\t\n", "weft", "web.weft"},
		{"//web//", "weft", "web.weft"},
		{"/WEB.Api", "Beta-Kafka", "web.api.beta-kafka"},
		{"/a/b.c/d", "/x/y.z", "ab.cd.xy.z"},
		{"/%2Fweb", "weft", "2fweb.weft"},
		{"fd01::1", "weft", "fd011.weft"}, // who wants an address is told so by ParseLabel
		{a(70), "weft", a(63) + ".weft"},
		{a(62) + "-b", "weft", a(62) + "b.weft"},
		{a(60) + "----b-c-d-e", "weft", a(60) + "bcd.weft"},
		{a(62) + "--", "weft", a(62) + ".weft"},
		{a(64), "weft", a(63) + ".weft"},
	} {
		got, err := Mangle(c.label, c.framework)
		if err != nil || got != c.want {
			t.Errorf("Mangle(%q, %q) = %q %v, want %q", c.label, c.framework, got, err, c.want)
		}
	}
	for _, c := range []struct{ label, framework, want string }{
		{"", "weft", "empty"},
		{"/", "weft", "empty"},
		{"***", "weft", "none of the characters"},
		{"a.***", "weft", "none of the characters"},
		{"---", "weft", "none of the characters"},
		{"web", "", "framework"},
		{strings.Repeat(a(63)+".", 4), "weft", "at most"},
	} {
		if got, err := Mangle(c.label, c.framework); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Mangle(%q, %q) = %q %v, want an error with %q", c.label, c.framework, got, err, c.want)
		}
	}
}

func TestMangledNamesAreDNSNames(t *testing.T) {
	t.Parallel()
	valid := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$`)
	rapid.Check(t, func(t *rapid.T) {
		label := rapid.StringMatching(`[a-zA-Z0-9._/ *-]{0,100}`).Draw(t, "label")
		name, err := Mangle(label, "weft")
		if err != nil {
			return
		}
		if !valid.MatchString(name) || len(DNSName(name)) > 253 {
			t.Fatalf("%q became %q", label, name)
		}
		again, err := Mangle(strings.TrimSuffix(name, ".weft"), "weft")
		if err != nil || again != name {
			t.Fatalf("%q became %q, and that became %q (%v)", label, name, again, err)
		}
	})
}
