// SPDX-License-Identifier: Apache-2.0

package overlay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// PortMapping leads a port of the node to a port of the task: an opening of that port of the task to
// anywhere, whatever its groups are. A rule that denies the world is before it.
type PortMapping struct {
	// HostIP is an address of the node; not valid: all of its addresses. The unspecified address of a
	// family stands for all of that family.
	HostIP   netip.Addr `json:"host_ip,omitzero"`
	HostPort uint16     `json:"host_port"`
	Port     uint16     `json:"port"`               // of the task
	Protocol string     `json:"protocol,omitempty"` // tcp or udp; default tcp
}

// Normal returns the mapping with defaults filled in.
func (m PortMapping) Normal() PortMapping {
	m.HostIP = m.HostIP.Unmap()
	m.Protocol = cmp.Or(m.Protocol, "tcp")
	return m
}

// String is the mapping as ParsePortMapping reads it.
func (m PortMapping) String() string {
	m = m.Normal()
	host := strconv.Itoa(int(m.HostPort))
	if m.HostIP.IsValid() {
		host = netip.AddrPortFrom(m.HostIP, m.HostPort).String()
	}
	return fmt.Sprintf("%s:%d/%s", host, m.Port, m.Protocol)
}

// ParsePortMapping reads [HOST_IP:]HOST_PORT:PORT[/tcp|udp]; an IPv6 address stands in brackets.
func ParsePortMapping(text string) (PortMapping, error) {
	var m PortMapping
	bad := fmt.Errorf("%w port mapping %q: [HOST_IP:]HOST_PORT:PORT[/tcp|udp] is allowed, ports 1 to 65535, such as 8080:80/tcp",
		ErrInvalid, text)
	ports, protocol, named := strings.Cut(text, "/")
	if m.Protocol = protocol; named && protocol == "" {
		return m, bad
	}
	colon := strings.LastIndexByte(ports, ':')
	if colon < 0 {
		return m, bad
	}
	host, task := ports[:colon], ports[colon+1:]
	if at, err := netip.ParseAddrPort(host); err == nil {
		m.HostIP, m.HostPort = at.Addr(), at.Port()
	} else if port, err := strconv.ParseUint(host, 10, 16); err == nil {
		m.HostPort = uint16(port)
	} else {
		return m, bad
	}
	port, err := strconv.ParseUint(task, 10, 16)
	if err != nil {
		return m, bad
	}
	m.Port = uint16(port)
	m = m.Normal()
	return m, m.Validate()
}

// Validate reports everything that is wrong with the mapping by itself.
func (m PortMapping) Validate() error {
	m = m.Normal()
	p := problems{what: fmt.Sprintf("port mapping %s", m)}
	if m.HostPort == 0 {
		p.addf("host_port is 0: allowed are 1 to 65535")
	}
	if m.Port == 0 {
		p.addf("port is 0: allowed are 1 to 65535")
	}
	if m.Protocol != "tcp" && m.Protocol != "udp" {
		p.addf("protocol %q is not mapped: allowed are tcp and udp", m.Protocol)
	}
	if m.HostIP.IsMulticast() || m.HostIP.Zone() != "" || m.HostIP.IsLinkLocalUnicast() {
		p.addf("host_ip %s is not allowed: an address of the node that is neither multicast nor link-local, or none for all", m.HostIP)
	}
	if m.HostIP == netip.IPv6Loopback() {
		p.addf("host_ip ::1 is not allowed: the kernel routes no answers to it; 127.0.0.1 works")
	}
	return p.err()
}

// Serves reports whether the mapping takes traffic to addresses of that family.
func (m PortMapping) Serves(is4 bool) bool {
	return !m.HostIP.IsValid() || m.HostIP.Unmap().Is4() == is4
}

// Clashes reports whether a packet could be meant by both.
func (m PortMapping) Clashes(o PortMapping) bool {
	m, o = m.Normal(), o.Normal()
	if m.HostPort != o.HostPort || m.Protocol != o.Protocol {
		return false
	}
	every := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	switch {
	case !m.HostIP.IsValid() || !o.HostIP.IsValid():
		return true
	case m.HostIP.Is4() != o.HostIP.Is4():
		return false
	}
	return every(m.HostIP) || every(o.HostIP) || m.HostIP == o.HostIP
}

// normalPorts returns the mappings with defaults filled in and sorted, each once.
func normalPorts(list []PortMapping) []PortMapping {
	var normal []PortMapping
	for _, m := range list {
		normal = append(normal, m.Normal())
	}
	slices.SortFunc(normal, func(a, b PortMapping) int {
		return cmp.Or(cmp.Compare(a.HostPort, b.HostPort), cmp.Compare(a.Protocol, b.Protocol), a.HostIP.Compare(b.HostIP),
			cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(normal)
}

// mappings checks an attachment's, which are normal.
func (p *problems) mappings(list []PortMapping) {
	for i, m := range list {
		if err := m.Validate(); err != nil {
			p.addf("ports: %s", err)
		}
		for _, o := range list[:i] {
			if m.Clashes(o) {
				p.addf("ports: %s and %s take the same port of the node", o, m)
			}
		}
	}
}
