// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"maps"
	"math"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/overlay/ipam"
)

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func usedOf(list ...string) func(netip.Addr) bool {
	used := make(map[netip.Addr]bool)
	for _, s := range list {
		used[netip.MustParseAddr(s)] = true
	}
	return func(a netip.Addr) bool { return used[a] }
}

func TestLowestIsLowestFreeWhateverTheOrderOfBlocks(t *testing.T) {
	t.Parallel()
	blocks := prefixes("9.0.7.0/30", "9.0.2.0/30")
	for _, row := range []struct {
		used []string
		want string
	}{
		{nil, "9.0.2.1"},
		{[]string{"9.0.2.1"}, "9.0.2.2"},
		{[]string{"9.0.2.2"}, "9.0.2.1"},
		{[]string{"9.0.2.1", "9.0.2.2"}, "9.0.7.1"},
		{[]string{"9.0.2.1", "9.0.2.2", "9.0.7.1", "9.0.7.2"}, ""},
	} {
		got, ok := ipam.Lowest(blocks, usedOf(row.used...))
		if ok != (row.want != "") || ok && got.String() != row.want {
			t.Errorf("used %v: got %v %v, want %q", row.used, got, ok, row.want)
		}
	}
}

func TestLowestAtTheEndOfTheAddressSpace(t *testing.T) {
	t.Parallel()
	all := func(netip.Addr) bool { return true }
	if got, ok := ipam.Lowest(prefixes("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124"), all); ok {
		t.Errorf("got %v, want none", got)
	}
}

func TestLowestBlock(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		subnet string
		bits   int
		taken  []netip.Prefix
		want   string
	}{
		"first":             {"9.0.0.0/8", 24, nil, "9.0.0.0/24"},
		"second":            {"9.0.0.0/8", 24, prefixes("9.0.0.0/24"), "9.0.1.0/24"},
		"gap":               {"9.0.0.0/8", 24, prefixes("9.0.2.0/24", "9.0.0.0/24"), "9.0.1.0/24"},
		"behind a larger":   {"9.0.0.0/8", 24, prefixes("9.0.0.0/16"), "9.1.0.0/24"},
		"behind a smaller":  {"9.0.0.0/8", 24, prefixes("9.0.0.128/25"), "9.0.1.0/24"},
		"two smaller":       {"9.0.0.0/8", 24, prefixes("9.0.0.0/25", "9.0.0.128/25"), "9.0.1.0/24"},
		"whole":             {"9.0.0.0/24", 24, nil, "9.0.0.0/24"},
		"full":              {"9.0.0.0/24", 25, prefixes("9.0.0.0/25", "9.0.0.128/25"), ""},
		"another network's": {"9.0.0.0/24", 25, prefixes("10.0.0.0/8"), "9.0.0.0/25"},
		"IPv6":              {"fd01:b::/64", 112, prefixes("fd01:b::/112", "fd01:b::1:0/112"), "fd01:b::2:0/112"},
		"end of the space":  {"255.255.255.0/24", 25, prefixes("255.255.255.0/25", "255.255.255.128/25"), ""},
		"longer subnet":     {"9.0.0.0/24", 16, nil, ""},
	} {
		got, ok := ipam.LowestBlock(netip.MustParsePrefix(row.subnet), row.bits, row.taken)
		if ok != (row.want != "") || ok && got.String() != row.want {
			t.Errorf("%s: got %v %v, want %q", name, got, ok, row.want)
		}
	}
}

func TestFreeCountsWhatLowestWouldGive(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		blocks := prefixes("9.0.0.0/28", "9.0.5.0/29", "fd01::/125")
		used := make(map[netip.Addr]bool)
		for _, n := range rapid.SliceOf(rapid.IntRange(0, 19)).Draw(t, "used") {
			used[netip.AddrFrom4([4]byte{9, 0, byte(n / 14 * 5), byte(n%14) + 1})] = true
		}
		isUsed := func(a netip.Addr) bool { return used[a] }
		free, given := ipam.Free(blocks, slices.Collect(maps.Keys(used))), 0
		for last := (netip.Addr{}); ; given++ {
			a, ok := ipam.Lowest(blocks, isUsed)
			if !ok {
				break
			}
			if used[a] || a.Less(last) {
				t.Fatalf("gave %v after %v, used %v", a, last, used[a])
			}
			used[a], last = true, a
		}
		if given != free {
			t.Fatalf("Free said %d, Lowest gave %d", free, given)
		}
	})
}

func TestBlocksNeverOverlapAndAreAllGiven(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		subnet := netip.MustParsePrefix("9.0.0.0/24")
		bits := rapid.IntRange(24, 30).Draw(t, "bits")
		var taken []netip.Prefix
		for _, b := range rapid.SliceOf(rapid.IntRange(0, 255)).Draw(t, "taken") {
			length := rapid.IntRange(24, 32).Draw(t, "length")
			taken = append(taken, netip.PrefixFrom(netip.AddrFrom4([4]byte{9, 0, 0, byte(b)}), length).Masked())
		}
		// The plain answer: every block in turn.
		var want []netip.Prefix
		for b := 0; b < 256; b += 1 << (32 - bits) {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{9, 0, 0, byte(b)}), bits)
			free := true
			for _, t := range taken {
				free = free && !t.Overlaps(p)
			}
			if free {
				want = append(want, p)
			}
		}
		for _, w := range want {
			got, ok := ipam.LowestBlock(subnet, bits, taken)
			if !ok || got != w {
				t.Fatalf("got %v %v, want %v", got, ok, w)
			}
			taken = append(taken, got)
		}
		if got, ok := ipam.LowestBlock(subnet, bits, taken); ok {
			t.Fatalf("got %v, want none", got)
		}
	})
}

func TestWantedAsksBeforeTheLastIsGone(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct{ held, free, waiting, usable, want int }{
		"nothing yet":       {0, 0, 1, 254, 1},
		"plenty":            {1, 200, 0, 254, 1},
		"at the mark":       {1, 31, 0, 254, 1},
		"under the mark":    {1, 30, 0, 254, 2},
		"small block":       {1, 1, 0, 2, 1},
		"small block full":  {1, 0, 0, 2, 2},
		"many wait":         {1, 0, 10, 2, 7},
		"asked already":     {2, 254, 0, 254, 2},
		"first of a wide":   {0, 0, 1, math.MaxInt, 1},
		"unusable":          {3, 0, 9, 0, 3},
		"more than we know": {1, math.MaxInt, 5, math.MaxInt, 1},
	} {
		if got := ipam.Wanted(row.held, row.free, row.waiting, row.usable); got != row.want {
			t.Errorf("%s: got %d, want %d", name, got, row.want)
		}
	}
}
