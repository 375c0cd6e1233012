// SPDX-License-Identifier: Apache-2.0

// Command gen writes docs/troubleshooting.md from the list of reasons and what overlay/explain knows of
// each.
//
//	gen OUTPUT
package main

import (
	"fmt"
	"os"

	"weft/overlay/explain"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen OUTPUT")
		os.Exit(2) //nolint:forbidigo // this is main
	}
	if err := os.WriteFile(os.Args[1], []byte(explain.Troubleshooting()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}
