// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"os"
	"strconv"
	"testing"
)

// Packets is how many random packets a test runs through a program: what WEFT_PACKETS says, else a
// million, or 2,000 in short form, for guests.
func Packets(tb testing.TB) int {
	tb.Helper()
	if text := os.Getenv("WEFT_PACKETS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			tb.Fatalf("WEFT_PACKETS is %q: a number from 1 on is allowed", text)
		}
		return n
	}
	if testing.Short() {
		return 2_000
	}
	return 1_000_000
}
