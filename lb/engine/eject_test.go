// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"weft/lb"
)

// Some backends fail for this node: they are ejected, unless all are.
func TestEjectionIsShownWithItsFloor(t *testing.T) {
	t.Parallel()
	const all, some = "serving; this node's connections failed, as with every other backend: used all the same",
		"serving; this node's connections failed: ejected here for 4.2s"
	for name, c := range map[string]struct {
		in, barred [3]bool
		want       [3]string
	}{
		"none":              {[3]bool{true, true, true}, [3]bool{}, [3]string{"serving", "serving", "serving"}},
		"one":               {[3]bool{true, true, true}, [3]bool{1: true}, [3]string{"serving", some, "serving"}},
		"all":               {[3]bool{true, true, true}, [3]bool{true, true, true}, [3]string{all, all, all}},
		"all that are in":   {[3]bool{0: true, 1: true}, [3]bool{true, true, false}, [3]string{all, all, "unhealthy"}},
		"one that is out":   {[3]bool{0: true, 1: true}, [3]bool{2: true}, [3]string{"serving", "serving", "unhealthy"}},
		"nobody is in":      {[3]bool{}, [3]bool{true, true, true}, [3]string{"unhealthy", "unhealthy", "unhealthy"}},
		"the only one left": {[3]bool{0: true}, [3]bool{0: true}, [3]string{all, "unhealthy", "unhealthy"}},
	} {
		backends := make([]lb.BackendStatus, 3)
		for i := range backends {
			b := &backends[i]
			if b.In, b.Reason = c.in[i], "unhealthy"; b.In {
				b.Reason = "serving"
			}
			if c.barred[i] {
				b.Traffic.Barred = 4180 * time.Millisecond
			}
		}
		eject(backends)
		for i, b := range backends {
			if b.Reason != c.want[i] || b.Ejected != (c.want[i] == some) {
				t.Errorf("%s: backend %d: %q, ejected %t; want %q", name, i, b.Reason, b.Ejected, c.want[i])
			}
		}
	}
}
