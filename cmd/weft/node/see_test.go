// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"

	"weft/bpf/probe"
)

func TestAFeatureThatIsNeededIsMissingNotOff(t *testing.T) {
	t.Parallel()
	for want, f := range map[string]probe.Feature{"on": {On: true, Needed: true}, "missing": {Needed: true}, "off": {}} {
		if got := featureState(f); got != want {
			t.Errorf("%+v is %q, want %q", f, got, want)
		}
	}
}
