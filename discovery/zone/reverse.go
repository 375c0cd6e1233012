// SPDX-License-Identifier: Apache-2.0

package zone

import (
	"net/netip"

	"weft/discovery"
	"weft/discovery/dnsname"
	"weft/discovery/zone/record"
)

// reverse generates the PTR records:
//
//	a task's address -> label.fw.D    a VIP's -> its name    a node's -> its name, whichever tasks are there
func reverse(o *Options, f Fact) []record.Record {
	switch f := f.(type) {
	case placedTask:
		if f.Network == discovery.HostNetwork {
			return nil // the address is its node's
		}
		label, framework := dnsname.Label(f.Label), taskFramework(f.Task)
		return pointers(dnsname.Join(label, framework, o.Domain), o, f.Addrs)
	case Host:
		return pointers(hostName(f), o, f.Addrs)
	case Service:
		records := pointers(serviceName(f), o, f.Addrs)
		for i := range records {
			records[i].Network, records[i].TTL = f.Network, seconds(serviceTTL)
		}
		return records
	}
	return nil
}

func pointers(target string, o *Options, addrs []netip.Addr) []record.Record {
	if target == "" {
		return nil
	}
	records := make([]record.Record, 0, len(addrs))
	for _, a := range addrs {
		if a.IsValid() {
			records = append(records, record.Record{
				Name: dnsname.ReverseName(a), Type: record.PTR, TTL: seconds(o.TTL), Target: target,
			})
		}
	}
	return records
}
