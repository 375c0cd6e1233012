// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"testing"

	wire "github.com/miekg/dns"

	"weft/discovery"
	"weft/discovery/zone"
)

// What dcos_dns_handler's suite asks, besides what the other tests do: the probe over each transport, 128 addresses,
// and a name that is there only at run time.

func TestTheProbeIsAnsweredOverEachTransport(t *testing.T) {
	f := start(t, Options{}, nil)
	for _, transport := range []string{"udp", "tcp"} {
		r := f.ask(new(wire.Msg).SetQuestion("ready.spartan.", wire.TypeA), transport, "")
		if got := values(r.Answer); len(got) != 1 || got[0] != "127.0.0.1" || !r.Authoritative {
			t.Errorf("over %s: %v", transport, r)
		}
	}
}

func TestManyAddressesAreCutOverUDPAndWholeOverTCP(t *testing.T) {
	var changes []zone.Change
	for i := range 128 {
		changes = append(changes, task(fmt.Sprint("t", i), "many", fmt.Sprintf("127.1.1.%d", i+1)))
	}
	f := start(t, Options{}, changes)
	m := new(wire.Msg).SetQuestion("many.weft.mesos.", wire.TypeA)
	if r := f.ask(m, "udp", ""); !r.Truncated || len(r.Answer) == 128 {
		t.Errorf("over UDP %d addresses, truncated %t", len(r.Answer), r.Truncated)
	}
	if r := f.ask(m, "tcp", ""); r.Truncated || len(r.Answer) != 128 {
		t.Errorf("over TCP %d addresses, truncated %t; want all 128", len(r.Answer), r.Truncated)
	}
}

func TestThisNodeIsThereOnceTheNodeSaysWhatItIs(t *testing.T) {
	f := start(t, Options{}, nil)
	f.z = zone.New(zone.Options{Self: "n1"}).Completed()
	f.change()
	if r := f.query("thisnode.thisdcos.directory.", wire.TypeA); r.Rcode != wire.RcodeNameError {
		t.Errorf("before: %s", wire.RcodeToString[r.Rcode])
	}
	f.change(zone.Change{
		Source: zone.Source{Kind: discovery.KindNode, Key: "n1", Writer: "n1"},
		Fact:   zone.Host{Node: discovery.Node{ID: "n1", Addrs: addrs("192.0.2.7")}},
	})
	if got := values(f.query("thisnode.thisdcos.directory.", wire.TypeA).Answer); len(got) != 1 || got[0] != "192.0.2.7" {
		t.Errorf("then: %v", got)
	}
}
