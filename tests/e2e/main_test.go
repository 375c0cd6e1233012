// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"weft/tests/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }
