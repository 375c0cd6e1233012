// SPDX-License-Identifier: Apache-2.0

package bgp_test

import (
	"net/netip"
	"strings"
	"testing"

	"weft/lb/announce/bgp"
)

func TestParsePeer(t *testing.T) {
	t.Parallel()
	got, err := bgp.ParsePeer("10.0.0.254=64512")
	if want := (bgp.Peer{Addr: netip.MustParseAddr("10.0.0.254"), AS: 64512}); err != nil || got != want {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	for _, text := range []string{"", "10.0.0.254", "10.0.0.254=", "10.0.0.254=0", "10.0.0.254=4294967296", "router=1", "10.0.0.254:179=1"} {
		if _, err := bgp.ParsePeer(text); err == nil || !strings.Contains(err.Error(), "ADDRESS=AS is allowed") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	t.Parallel()
	_, err := bgp.New(bgp.Options{})
	for _, says := range []string{"as is 0", "router id", "no peer", "no Serving"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
	}
}
