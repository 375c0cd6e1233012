// SPDX-License-Identifier: Apache-2.0

package zone

// directoryRecords generates thisdcos.directory, the zone of everything that is no task:
//
//	name.l4lb.thisdcos.directory   A, AAAA   a VIP; seen in its network and by the hosts
//	id.node.thisdcos.directory     A, AAAA   a node (ours: its reverse record needs a name)
func directoryRecords(o *Options, f Fact) []Record {
	switch f := f.(type) {
	case apexes:
		return apex(directory, o.Servers, o)
	case Host:
		return addresses(hostName(f), o.TTL, f.Addrs)
	case Service:
		records := addresses(serviceName(f), serviceTTL, f.Addrs)
		for i := range records {
			records[i].Network = f.Network
		}
		return records
	}
	return nil
}

func hostName(h Host) string { return join(Label(string(h.ID)), "node", directory) }

func serviceName(s Service) string { return join(Domain(s.Name), "l4lb", directory) }
