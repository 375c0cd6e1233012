// SPDX-License-Identifier: Apache-2.0

package ledger_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain lets no goroutine stay. etcd's members read from each other for 5 s at a time (rafthttp.ConnReadTimeout), whatever
// their servers say meanwhile.
func TestMain(m *testing.M) {
	code := m.Run()
	for deadline := time.Now().Add(15 * time.Second); code == 0; {
		err := goleak.Find() // looks again for a second
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}
