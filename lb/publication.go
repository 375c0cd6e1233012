// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"weft/discovery"
)

// Publication is an operator's word that clients outside of every network reach a VIP at an address and port, by the
// nodes of the edge. Its protocol is the VIP's.
type Publication struct {
	Addr netip.Addr `json:"addr"` // as clients have it
	Port uint16     `json:"port"`
	VIP  Key        `json:"vip"`
	// Affinity sends all connections of a client's address to one backend.
	Affinity bool `json:"affinity,omitempty"`
	// QUIC lets connection ids name the backend (UDP alone): docs/loadbalancing.md says how servers make them.
	QUIC bool `json:"quic,omitempty"`
	// Return is the way of answers.
	Return Return `json:"return,omitempty"`
}

// PublicationStatus is a publication as a node sees it.
type PublicationStatus struct {
	Publication
	Edges []EdgeStatus `json:"edges"` // nodes of the edge that live, by id; nil: they were not asked
}

// EdgeStatus is whether a node of the edge acts by what the masters said last of publications.
type EdgeStatus struct {
	Node    discovery.NodeID `json:"node"`
	Applied bool             `json:"applied"`
}

// Return is how answers get from a task's node to a client outside.
type Return string

// Values of Return.
const (
	ReturnDirect Return = ""     // straight, by the routes of the task's node
	ReturnEdge   Return = "edge" // by the edge node that sent the client's last packet: docs/decisions/0020
)

// direct is how people write ReturnDirect.
const direct = "direct"

// ParseReturn reads direct, or nothing, and edge; else the error is ErrInvalid.
func ParseReturn(text string) (Return, error) {
	switch text {
	case "", direct:
		return ReturnDirect, nil
	case string(ReturnEdge):
		return ReturnEdge, nil
	}
	return "", fmt.Errorf("%w return %q: %s (answers leave the task's node by its own routes) and %s (they go back by the edge node "+
		"that the client came by) are allowed", ErrInvalid, text, direct, ReturnEdge)
}

// String returns direct or edge.
func (r Return) String() string { return cmp.Or(string(r), direct) }

// Name is what a publication is told from others by, and the key of its row: 203.0.113.10:443/tcp.
func (p Publication) Name() string {
	return netip.AddrPortFrom(p.Addr, p.Port).String() + "/" + p.VIP.Protocol
}

// Compare orders publications by address, port and protocol.
func (p Publication) Compare(o Publication) int {
	return cmp.Or(p.Addr.Compare(o.Addr), cmp.Compare(p.Port, o.Port), cmp.Compare(p.VIP.Protocol, o.VIP.Protocol))
}

// Validate joins every problem; the error is ErrInvalid.
func (p Publication) Validate() error {
	var errs []error
	invalid := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w publication: "+format, append([]any{ErrInvalid}, args...)...))
	}
	a := p.Addr
	if !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		invalid("address is %s: a unicast IPv4 or IPv6 address is allowed, such as 203.0.113.10", a)
	}
	for _, r := range []netip.Prefix{netip.PrefixFrom(addr4(0), 8), netip.PrefixFrom(addr6(0), 64)} {
		if r.Contains(a) {
			invalid("address %s is of %s, which named VIPs have inside; take one that clients outside can reach", a, r)
		}
	}
	if p.Port == 0 || p.VIP.Port == 0 {
		invalid("port is 0: 1 to 65535 are allowed, of the address and of the VIP")
	}
	switch p.VIP.Network {
	case "":
		invalid("the VIP has no network")
	case discovery.HostNetwork:
		invalid("network of the VIP is %s: a virtual network is allowed, for the edge hands packets to tasks' links, and tasks in their nodes' own "+
			"network have none; clients outside reach these at their nodes' addresses", p.VIP.Network)
	}
	if p.VIP.Protocol != TCP && p.VIP.Protocol != UDP {
		invalid("protocol is %q: %s and %s are allowed", p.VIP.Protocol, TCP, UDP)
	}
	if (p.VIP.Name == "") == !p.VIP.Addr.IsValid() {
		invalid("exactly one of the VIP's name and address is to be set")
	}
	if _, err := ParseReturn(string(p.Return)); err != nil || p.Return == direct {
		invalid("return is %q: nothing and %s are allowed", string(p.Return), ReturnEdge)
	}
	if p.QUIC && p.VIP.Protocol != UDP {
		invalid("quic goes with %s alone", UDP)
	}
	return errors.Join(errs...)
}

// ParseKey reads a VIP of a network as people write it: web.weft:80, web.weft:53/udp, 198.51.100.7:80/tcp. A name
// without a framework is of the default one; without a protocol it is tcp.
func ParseKey(network, text string) (Key, error) {
	wrong := func(why string) (Key, error) {
		return Key{}, fmt.Errorf("%w VIP %q: %s; NAME:PORT[/tcp|/udp] is allowed, such as web.weft:80", ErrInvalid, text, why)
	}
	host, protocol, some := strings.Cut(text, "/")
	if !some {
		protocol = TCP
	}
	if protocol != TCP && protocol != UDP {
		return wrong("the protocol is not known")
	}
	key := Key{Network: network, Protocol: protocol}
	if at, err := netip.ParseAddrPort(host); err == nil {
		key.Addr, key.Port = at.Addr(), at.Port()
		return key, nil
	}
	name, number, _ := strings.Cut(host, ":")
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 || name == "" {
		return wrong("there is no port of 1 to 65535")
	}
	label, framework := name, DefaultFramework
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
		label, framework = name[:dot], name[dot+1:]
	}
	if key.Name, err = Mangle(label, framework); err != nil {
		return Key{}, fmt.Errorf("%w VIP %q: %w", ErrInvalid, text, err)
	}
	key.Port = uint16(port)
	return key, nil
}
