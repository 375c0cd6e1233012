// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"weft/bpf/row"
	"weft/overlay"
)

// Port is a port of this node that leads to a task, in one family.
type Port struct {
	Proto uint8          // IP protocol
	Host  netip.AddrPort // an unspecified address: every one of its family
	Task  netip.AddrPort
}

// Ports returns the ports that the mappings of the tasks come to, sorted.
func Ports(tasks []Task) []Port {
	var ports []Port
	for _, t := range tasks {
		ports = append(ports, PortsOf(t.Endpoint)...)
	}
	slices.SortFunc(ports, func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.Host.Compare(b.Host), a.Task.Compare(b.Task))
	})
	return ports
}

// PortsOf returns the ports that lead to one task: a mapping of every address is one of each family
// that the task has.
func PortsOf(e overlay.Endpoint) []Port {
	var ports []Port
	for _, m := range e.Ports {
		m = m.Normal()
		proto, _ := Protocol(m.Protocol)
		for _, a := range e.Addrs() {
			host := m.HostIP
			if !host.IsValid() && a.Is4() {
				host = netip.IPv4Unspecified()
			} else if !host.IsValid() {
				host = netip.IPv6Unspecified()
			}
			if host.Is4() == a.Is4() {
				ports = append(ports, Port{
					Proto: proto, Host: netip.AddrPortFrom(host, m.HostPort), Task: netip.AddrPortFrom(a, m.Port),
				})
			}
		}
	}
	return ports
}

// openings says to the packet path which ports of tasks are open to the world.
func openings(f Facts) map[row.OpeningKey]row.Opening {
	rows := make(map[row.OpeningKey]row.Opening)
	for _, t := range f.Tasks {
		for _, p := range PortsOf(t.Endpoint) {
			key := row.OpeningKey{
				VNI: uint32(t.VNI), Addr: row.AddrOf(p.Task.Addr()), Port: row.Port(p.Task.Port()), Proto: p.Proto,
			}
			if r, there := rows[key]; !there || p.Host.Port() < r.HostPort {
				rows[key] = row.Opening{HostPort: p.Host.Port()}
			}
		}
	}
	return rows
}
