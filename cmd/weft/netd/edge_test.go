// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"strings"
	"testing"
)

func TestAnnouncementsNeedAnEdge(t *testing.T) {
	t.Parallel()
	edge, peers := []string{"eth0"}, []string{"10.0.0.254=64999"}
	for _, tt := range []struct {
		o    Options
		says string
	}{
		{Options{}, ""},
		{Options{Edge: edge}, ""},
		{Options{Edge: edge, Neighbours: true, BGP: 64512, BGPPeers: peers}, ""},
		{Options{Neighbours: true}, "--edge"},
		{Options{BGP: 64512, BGPPeers: peers}, "--edge"},
		{Options{Edge: edge, BGP: 64512}, "go together"},
		{Options{Edge: edge, BGPPeers: peers}, "go together"},
	} {
		err := tt.o.checkEdge()
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: got %v, want it to say %q", tt.o, err, tt.says)
		}
	}
}

// TestSeedsOfTheEdge: all nodes of a cluster have the same, and only they.
func TestSeedsOfTheEdge(t *testing.T) {
	t.Parallel()
	one, other := edgeSeed([]byte("a secret of the cluster")), edgeSeed([]byte("another one, of another"))
	if one == other || one == 0 || one != edgeSeed([]byte("a secret of the cluster")) {
		t.Errorf("seeds are %x and %x", one, other)
	}
}
