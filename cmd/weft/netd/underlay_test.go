// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"strings"
	"testing"
)

// A node that answers no probes is found at none of its ports: who gives it a second one is told.
func TestASecondPortThatNobodyFindsIsToldOf(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{}, {SlowDecap: true}, {Tunnel2: 4790}, {SlowEncap: true, Tunnel2: 4790}} {
		if w := o.warnings(); len(w) > 0 {
			t.Errorf("%+v: got %q, want no warning", o, w)
		}
	}
	o := Options{SlowDecap: true, Tunnel2: 4790}
	if w := o.warnings(); len(w) != 1 || !strings.Contains(w[0], "--slow-decap") || !strings.Contains(w[0], "--tunnel-port-2 4790") {
		t.Errorf("got %q, want one warning that names both flags", w)
	}
}
