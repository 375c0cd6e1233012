// SPDX-License-Identifier: Apache-2.0

package fake_test

import (
	"testing"

	"go.uber.org/goleak"

	"weft/overlay/fake"
	"weft/overlay/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	servicetest.RunContract(t, func(*testing.T) servicetest.Node {
		s := fake.New(fake.Options{Networks: servicetest.Networks(), Groups: servicetest.Groups(), Rules: servicetest.Rules()})
		return servicetest.Node{Service: s, Drop: func() { servicetest.Report(s) }}
	})
}
