// SPDX-License-Identifier: Apache-2.0

// Command coredns is CoreDNS with the two plugins that bench-dns compares with: a zone file and a hosts
// file. It is a module of its own, so that nothing of CoreDNS is in Weft's.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/hosts"
)

func main() {
	dnsserver.Directives = []string{"bind", "hosts", "file"}
	coremain.Run()
}
