// SPDX-License-Identifier: Apache-2.0

// Command weft-cni joins containers of any CNI runtime to Weft networks. It is a client of the node
// daemon and holds nothing itself; what runs the containers is the runtime's.
package main

import "os"

// version is set by the linker.
var version = "dev"

func main() { os.Exit(run()) }
