// SPDX-License-Identifier: Apache-2.0

// Command weft is all of Weft's processes and its command line.
package main

import "os"

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }
