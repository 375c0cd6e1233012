// SPDX-License-Identifier: Apache-2.0

package bpf_test

import (
	"testing"
	"time"
)

// The emulated guests of `make test-kernels` run these tests in short form.

// patience is how long what comes at once on an idle machine may take, here or in a guest.
const patience = time.Minute

// timely skips what counts on connects that take far less than 10 ms.
func timely(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("the times of connections are those of a machine that is not emulated")
	}
}

// anyKernel skips what a guest takes long for and no kernel changes: which map goes to which, which
// backend is whose turn.
func anyKernel(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("the same on every kernel")
	}
}
