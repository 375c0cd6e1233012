// SPDX-License-Identifier: Apache-2.0

// Package compat answers what programs made for DC/OS ask about its overlay: the state of the master's
// module and of the agent's, in their spelling, from what Weft's masters and nodes know. It decides
// nothing and keeps nothing.
package compat

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"weft/control"
	"weft/discovery"
	"weft/overlay"
)

// Plan is what DC/OS calls the network: where the VTEPs of agents have their addresses and MACs from. In packets
// between nodes of Weft nothing depends on it; agents of DC/OS know a node by its MAC.
type Plan struct {
	VTEPs4 netip.Prefix
	VTEPs6 netip.Prefix
	OUI    [3]byte // the first half of VTEP MACs; the second is that of the IPv4 address
	Device string  // the tunnel device's name
}

// DefaultPlan is DC/OS' own.
func DefaultPlan() Plan {
	return Plan{
		VTEPs4: netip.MustParsePrefix("44.128.0.0/20"), VTEPs6: netip.MustParsePrefix("fd01:a::/64"),
		OUI: [3]byte{0x70, 0xb3, 0xd5}, Device: "weft-vx0",
	}
}

// MACOf is the link address that the documents give an agent, zero before it holds a block of the first overlay.
func (p Plan) MACOf(networks []overlay.Network, blocks []overlay.Block, node discovery.NodeID) (mac [6]byte) {
	var list []control.Network
	for _, n := range networks {
		with := control.Network{Network: n}
		for _, b := range blocks {
			if b.Network == n.Name {
				with.Blocks = append(with.Blocks, b)
			}
		}
		list = append(list, with)
	}
	for _, n := range byVNI(list)[:min(1, len(list))] {
		if first := blocksOf(n, node)[0]; first.IsValid() {
			_, _, text, _ := p.VTEP(number(n.Subnet4, first)) // without a place for it there is no text
			parsed, _ := net.ParseMAC(text)
			copy(mac[:], parsed)
		}
	}
	return mac
}

// VTEP is the n-th agent's, counted from 0: the lowest host address of the subnet is the first's.
func (p Plan) VTEP(n uint32) (addr4, addr6 netip.Prefix, mac string, err error) {
	a := p.VTEPs4.Masked().Addr().As4()
	host := uint64(n) + 1
	if host >= 1<<(32-p.VTEPs4.Bits())-1 { // the last is for broadcast
		return addr4, addr6, "", fmt.Errorf("vtep_subnet %s has no address for agent %d", p.VTEPs4, host)
	}
	low := uint64(a[0])<<24 | uint64(a[1])<<16 | uint64(a[2])<<8 | uint64(a[3]) + host
	ip4 := netip.AddrFrom4([4]byte{byte(low >> 24), byte(low >> 16), byte(low >> 8), byte(low)})
	b := p.VTEPs6.Masked().Addr().As16()
	for i := range 4 {
		b[12+i] |= byte(host >> (24 - 8*i))
	}
	last := ip4.As4()
	mac = fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", p.OUI[0], p.OUI[1], p.OUI[2], last[1], last[2], last[3])
	return netip.PrefixFrom(ip4, p.VTEPs4.Bits()), netip.PrefixFrom(netip.AddrFrom16(b), p.VTEPs6.Bits()), mac, nil
}

// The documents, as Mesos writes protobuf in JSON: what is not there is left out.
type (
	// State is GET /overlay-master/state.
	State struct {
		Network Network `json:"network"`
		Agents  []Agent `json:"agents,omitempty"`
	}
	// Network is the operator's configuration.
	Network struct {
		VTEPSubnet  string `json:"vtep_subnet"`
		VTEPSubnet6 string `json:"vtep_subnet6"`
		VTEPMACOUI  string `json:"vtep_mac_oui"`
		Overlays    []Info `json:"overlays,omitempty"`
	}
	// Info is one overlay.
	Info struct {
		Name    string `json:"name"`
		Subnet  string `json:"subnet,omitempty"`
		Prefix  int    `json:"prefix,omitempty"`
		Subnet6 string `json:"subnet6,omitempty"`
		Prefix6 int    `json:"prefix6,omitempty"`
		Enabled *bool  `json:"enabled,omitempty"`
	}
	// Agent is one agent of State, and GET /overlay-agent/overlay, which alone counts its attempts.
	Agent struct {
		IP       string    `json:"ip"`
		Attempts *int      `json:"configuration_attempts,omitempty"`
		Overlays []Overlay `json:"overlays,omitempty"`
	}
	// Overlay is an agent's part of an overlay. Weft has no bridges, so none is named.
	Overlay struct {
		Info    Info    `json:"info"`
		Subnet  string  `json:"subnet,omitempty"`
		Subnet6 string  `json:"subnet6,omitempty"`
		Backend Backend `json:"backend"`
		State   Status  `json:"state"`
	}
	// Backend is how an overlay travels.
	Backend struct {
		VXLAN VXLAN `json:"vxlan"`
	}
	// VXLAN is the agent's end of the tunnels; addresses have the mask of their subnet.
	VXLAN struct {
		VNI      uint32 `json:"vni"`
		VTEPName string `json:"vtep_name"`
		VTEPIP   string `json:"vtep_ip,omitempty"`
		VTEPIP6  string `json:"vtep_ip6,omitempty"`
		VTEPMAC  string `json:"vtep_mac,omitempty"`
		VTEPMTU  int    `json:"vtep_mtu,omitempty"` // what tasks' links have, bytes; 0 until the agent told the master
	}
	// Status tells whether the agent serves the overlay.
	Status struct {
		Status string `json:"status"`
		Error  string `json:"error,omitempty"`
	}
)

// Values of Status.Status.
const (
	StatusOK          = "STATUS_OK"
	StatusConfiguring = "STATUS_CONFIGURING"
	StatusFailed      = "STATUS_FAILED"
)

// StateOf is the master's document.
func StateOf(p Plan, networks []control.Network, nodes []control.Node) State {
	networks = byVNI(networks)
	oui := fmt.Sprintf("%02X:%02X:%02X:00:00:00", p.OUI[0], p.OUI[1], p.OUI[2])
	s := State{Network: Network{VTEPSubnet: p.VTEPs4.String(), VTEPSubnet6: p.VTEPs6.String(), VTEPMACOUI: oui}}
	for _, n := range networks {
		info, yes := infoOf(n.Network), true
		info.Enabled = &yes
		s.Network.Overlays = append(s.Network.Overlays, info)
	}
	for _, n := range nodes {
		if n.VTEP.IsValid() && n.Plain == nil {
			s.Agents = append(s.Agents, AgentOf(p, networks, n))
		}
	}
	return s
}

// AgentOf is an agent's part in all overlays. Its VTEP is numbered as its first block of the first
// overlay is, so that it stays as long as the block.
func AgentOf(p Plan, networks []control.Network, node control.Node) Agent {
	networks = byVNI(networks)
	a := Agent{IP: node.VTEP.String()}
	vtep := VXLAN{VTEPName: p.Device}
	if node.MTU > 0 {
		vtep.VTEPMTU = overlay.TaskMTU(node.VTEP, node.MTU)
	}
	var problem error
	for i, n := range networks {
		blocks := blocksOf(n, node.ID)
		if i == 0 && blocks[0].IsValid() {
			var ip4, ip6 netip.Prefix
			if ip4, ip6, vtep.VTEPMAC, problem = p.VTEP(number(n.Subnet4, blocks[0])); problem == nil {
				vtep.VTEPIP, vtep.VTEPIP6 = ip4.String(), ip6.String()
			}
		}
		vtep.VNI = uint32(n.VNI)
		o := Overlay{Info: infoOf(n.Network), Subnet: text(blocks[0]), Subnet6: text(blocks[1]), Backend: Backend{vtep}}
		o.State = statusOf(node, n, blocks, problem)
		a.Overlays = append(a.Overlays, o)
	}
	return a
}

// statusOf is failed where the masters refuse a block; what else they refuse the agent is no matter of this overlay.
func statusOf(node control.Node, n control.Network, blocks [2]netip.Prefix, problem error) Status {
	missing := n.Subnet4.IsValid() && !blocks[0].IsValid() || n.Subnet6.IsValid() && !blocks[1].IsValid()
	refused := node.Blockless[n.Name]
	switch {
	case problem != nil:
		return Status{StatusFailed, problem.Error()}
	case missing && refused != "":
		return Status{StatusFailed, refused}
	case missing:
		return Status{Status: StatusConfiguring}
	}
	return Status{Status: StatusOK}
}

func byVNI(networks []control.Network) []control.Network {
	return slices.SortedFunc(slices.Values(networks), func(a, b control.Network) int { return int(a.VNI) - int(b.VNI) })
}

func infoOf(n overlay.Network) Info {
	n = n.Normal()
	return Info{Name: n.Name, Subnet: text(n.Subnet4), Prefix: n.Block4, Subnet6: text(n.Subnet6), Prefix6: n.Block6}
}

// blocksOf returns a node's first block of each family.
func blocksOf(n control.Network, node discovery.NodeID) (first [2]netip.Prefix) {
	for _, b := range n.Blocks {
		family := 0
		if b.Prefix.Addr().Is6() {
			family = 1
		}
		if b.Node == node && (!first[family].IsValid() || b.Prefix.Addr().Less(first[family].Addr())) {
			first[family] = b.Prefix
		}
	}
	return first
}

// number is which one of a subnet's blocks this is, from 0.
func number(subnet, block netip.Prefix) uint32 {
	s, b := subnet.Masked().Addr().As4(), block.Addr().As4()
	var offset uint32
	for i := range s {
		offset = offset<<8 | uint32(b[i]-s[i])
	}
	return offset >> (32 - block.Bits())
}

func text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}
