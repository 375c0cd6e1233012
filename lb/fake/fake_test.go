// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"testing"

	"weft/lb"
	"weft/lb/fake"
	"weft/lb/servicetest"
)

func TestContract(t *testing.T) {
	t.Parallel()
	servicetest.RunContract(t, func(*testing.T) lb.Service { return fake.New("prod", "dev") })
}
