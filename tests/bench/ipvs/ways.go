// SPDX-License-Identifier: Apache-2.0

package main

// What is measured, by the names that the guest's benchmarks have.
const (
	wayDirect = "direct" // to the server's own address; services: 0
	wayWeft   = "weft"
	wayIPVS   = "ipvs"

	connected   = "connected"   // a socket that was connected to the VIP once
	unconnected = "unconnected" // every question names the VIP
	fresh       = "fresh"       // a new socket for each question
)

var (
	sockets       = []string{connected, unconnected, fresh}
	serviceCounts = []int{1, 10000} // the wanted one is the last
)
