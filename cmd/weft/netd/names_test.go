// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"net/netip"
	"testing"
)

func TestAServerThatAsksNobodyButItselfForwardsNothing(t *testing.T) {
	own := (&Options{}).listen()
	other := netip.MustParseAddrPort("9.9.9.9:53")
	for name, tt := range map[string]struct {
		resolvers []netip.AddrPort
		want      bool
	}{
		"none": {nil, false}, "itself": {own, false}, "another": {[]netip.AddrPort{other}, true}, "itself and another": {append(own, other), true},
	} {
		if got := forwards(tt.resolvers, own); got != tt.want {
			t.Errorf("%s: forwards %t, want %t", name, got, tt.want)
		}
	}
}
