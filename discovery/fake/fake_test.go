// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"testing"

	"weft/discovery"
	"weft/discovery/fake"
	"weft/discovery/servicetest"
)

func TestContract(t *testing.T) {
	servicetest.RunContract(t, func(*testing.T) discovery.Service { return fake.New("host-a") })
}
