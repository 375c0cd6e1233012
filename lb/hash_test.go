// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

// The vectors were made by Erlang/OTP 25: name, then phash2 modulo each of the ranges below.
func TestHashEqualsErlang(t *testing.T) {
	t.Parallel()
	ranges := []uint64{254, 16777214, 16777215, 1 << 32}
	lines := readLines(t, "testdata/phash2.tsv")
	if len(lines) != 3000 {
		t.Fatalf("%d vectors, want 3000", len(lines))
	}
	for _, line := range lines {
		fields := strings.Split(line, "\t")
		name := fields[0]
		for i, m := range ranges {
			want, err := strconv.ParseUint(fields[i+1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if got := uint64(phash2(name)) % m; got != want {
				t.Errorf("phash2(%q) mod %d = %d, want %d", name, m, got, want)
			}
			if m == span4 && HashAddr4(name) != addr4(uint32(want)) {
				t.Errorf("HashAddr4(%q) = %s, want 11.0.0.0 + %d", name, HashAddr4(name), want)
			}
		}
	}
}

func TestHashAddressesOfDCOS(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"l4lbtest.marathon": "11.128.73.162",
		"w7738086.marathon": "11.0.0.0",
		"svc-883.marathon":  "11.244.78.47",
		"svc-5297.marathon": "11.126.233.88",
		"qux.ipv6":          "fd01:c::6d6d:9c64:fd19:f251",
	} {
		got := HashAddr4(name)
		if strings.Contains(want, ":") {
			got = HashAddr6(name)
		}
		if got != netip.MustParseAddr(want) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// What dcos-net's listener of VIPs is tested by (net-tests 4.3): names in the range 11.0.0.0 to 11.0.0.254; and the empty name.
func TestHashesOfDcosNetsSuite(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]uint32{"foo.bar": 37, "baz.qux": 39} {
		if got := phash2(name) % 254; got != want {
			t.Errorf("%s: 11.0.0.%d, want 11.0.0.%d", name, got, want)
		}
	}
	for name, want := range map[string]uint32{"foo.bar": 9058972, "broker.kafka": 11494539, "l4lbtest.marathon": 8407458} {
		if got := HashAddr4(name); got != addr4(want) {
			t.Errorf("%s: %s, want 11.0.0.0 and %d", name, got, want)
		}
	}
	if got := phash2(""); got != 147926629 {
		t.Errorf("the empty name: %d, want 147926629", got)
	}
}

func readLines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
}
