// SPDX-License-Identifier: Apache-2.0

package discoverypb_test

import (
	"testing"

	"weft/discovery"
	"weft/discovery/fake"
	"weft/discovery/servicetest"
)

func TestContract(t *testing.T) {
	servicetest.RunContract(t, func(t *testing.T) discovery.Service {
		t.Helper()
		return connect(t, fake.New("host-a"))
	})
}
