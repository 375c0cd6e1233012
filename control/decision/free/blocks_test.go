// SPDX-License-Identifier: Apache-2.0

package free_test

import (
	"net/netip"
	"strings"
	"testing"

	"weft/control/decision/free"
)

func TestBlocksEndWithTheirSubnet(t *testing.T) {
	t.Parallel()
	next := func(b *free.Blocks) (netip.Prefix, bool) {
		p, ok := b.Next(nil)
		if ok {
			b.Take(p, "n")
		}
		return p, ok
	}
	for _, tt := range []struct {
		subnet string
		bits   int
		want   string
	}{
		{"255.255.254.0/23", 24, "255.255.254.0/24 255.255.255.0/24"},
		{"9.0.0.0/30", 30, "9.0.0.0/30"},
		{"fd00:0:0:ffff::/63", 64, "fd00:0:0:fffe::/64 fd00:0:0:ffff::/64"},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124", 126, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/126 " +
			"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff4/126 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8/126 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"},
		{"fd00::ffff:ffff:ffff:fffe/127", 128, "fd00::ffff:ffff:ffff:fffe/128 fd00::ffff:ffff:ffff:ffff/128"},
	} {
		b := free.NewBlocks(netip.MustParsePrefix(tt.subnet).Masked(), tt.bits)
		all := b.Left()
		var got []string
		for p, ok := next(b); ok; p, ok = next(b) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != tt.want || all != len(got) || b.Left() != 0 {
			t.Errorf("%s in /%d: %s (%d were free), want %s", tt.subnet, tt.bits, got, all, tt.want)
		}
	}
}
