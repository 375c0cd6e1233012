// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strconv"

	"weft/bpf/row"
)

// Owner is who can change what a packet was dropped for.
type Owner string

// Values of Owner.
const (
	OwnerTask     Owner = "task"     // that sent it
	OwnerOperator Owner = "operator" // of the network: groups, rules, subnets
	OwnerNode     Owner = "node"     // where it was dropped
	OwnerUnderlay Owner = "underlay" // who runs the machines' own network
)

// Fault is what is known of a reason for drops before any packet is looked at. Text and Check are about
// one packet; in braces stands what is filled in: {sender}, {src} and {dst} (sides, with names),
// {source} and {destination} (addresses), {service}, {network}, {node}, {length}, {mac} and {addrs} (the
// sender's own), {link} (the node's end of the sender's link) and {rule}.
type Fault struct {
	Owner Owner
	Step  string // function of bpf/src that decides
	Means string // what the reader should understand
	Text  string // empty: words of its own (words.go)
	Check string // the command that changes it, or what to look at; words of its own may say better
}

// Program names where a packet was met, by the name of its function.
func Program(number uint8) string {
	if int(number) < len(programs) {
		return programs[number]
	}
	return "program_" + strconv.Itoa(int(number))
}

var programs = []string{
	row.ProgramNone: "", row.ProgramFromWorkload: "from_workload", row.ProgramToWorkload: "to_workload",
	row.ProgramFromUnderlay: "from_underlay", row.ProgramFromTunnel: "from_tunnel", row.ProgramDNS: "from_host",
	row.ProgramEdge: "edge", row.ProgramFromNode: "from_node",
}

// Faults explains every reason for which packets are dropped, and audits. reason.h is the list; a test
// holds this table to it, and docs/troubleshooting.md is made from both.
func Faults() map[row.Reason]Fault { return faults }

var faults = map[row.Reason]Fault{
	row.ReasonAudited: {
		Owner: OwnerOperator, Step: "judge",
		Means: "A rule in audit mode would deny this packet. It was delivered: audit changes no outcome.",
		Check: "weft rule list {network}",
	},
	row.ReasonMalformed: {
		Owner: OwnerTask, Step: "parse",
		Means: "A header is cut off, contradicts its own length, or has a value that can't be sent: a source that is " +
			"multicast, a destination like 0.0.0.0 or 127.0.0.1.",
		Text:  "{sender} sent a packet whose headers are cut off or contradict themselves",
		Check: "tcpdump -evni {link} shows what is sent",
	},
	row.ReasonUnknownLink: {
		Owner: OwnerNode, Step: "find_workload",
		Means: "A packet came over a link whose task is not, or no longer, in the node's tables. It happens for a moment " +
			"while a task starts or ends.",
		Text:  "the link it came by belongs to no task of node {node}",
		Check: "weft task list; if the link stays, the log of weft netd tells why",
	},
	row.ReasonSpoofedMAC: {
		Owner: OwnerTask, Step: "check_mac",
		Means: "A task may send with the MAC of its own interface alone. Bridges and further interfaces behind it are " +
			"not carried.",
		Text:  "{sender} sent with a source MAC that is not its own, {mac}",
		Check: "in the task: ip link set eth0 address {mac}",
	},
	row.ReasonSpoofedAddress: {
		Owner: OwnerTask, Step: "check_source",
		Means: "A task may send from the addresses that it was given alone, also in ARP and neighbour discovery.",
		Text:  "{sender} sent as {source}, which is not its own: it has {addrs}",
		Check: "in the task: ip address show eth0; take away what is not {addrs}",
	},
	row.ReasonSpoofedTunnel: {
		Owner: OwnerTask, Step: "leave",
		Means: "A task sent UDP to the tunnel's port of a host. Left to pass, it could speak for any identity.",
		Text:  "{sender} sent a tunnel frame of its own to {destination}",
		Check: "use another UDP port in the task: this one is the tunnel's",
	},
	row.ReasonNotIP: {
		Owner: OwnerTask, Step: "parse",
		Means: "Networks carry IPv4 and IPv6, and ARP as far as the gateway. VLAN tags, LLDP, MPLS and the like are not.",
		Text:  "{sender} sent what is neither IPv4 nor IPv6, or ARP where none belongs",
		Check: "switch the other protocol off in the task; tcpdump -evni {link} names it",
	},
	row.ReasonNoEndpoint: {
		Owner: OwnerTask, Step: "go_here",
		Means: "The address is of a node's block, and no task there has it: the task has ended, or the address was " +
			"kept longer than its task. On an edge node it may be an answer to a client from an address that is not " +
			"published with --return edge any more.",
		Check: "ask for the name again (weft name show NAME): the task has ended or has another address",
	},
	row.ReasonNoBlock: {
		Owner: OwnerTask, Step: "leave",
		Means: "The address is of the network, but of a block that no node holds.",
		Check: "ask for the name again (weft name show NAME); weft network show NETWORK lists who holds which block",
	},
	row.ReasonOtherNetwork: {
		Owner: OwnerOperator, Step: "leave",
		Means: "Source and destination are in different networks. Networks never meet, whatever rules say.",
		Check: "run both in one network: weft run --network NAME",
	},
	row.ReasonNoCommonGroup: {
		Owner: OwnerOperator, Step: "judge",
		Means: "The two tasks share no group, and no rule lets the one reach the other on this service. Answers to what " +
			"the receiver opened itself always pass.",
		Check: "weft rule add {network} --from GROUP --to GROUP --port {service}",
	},
	row.ReasonDenied: {
		Owner: OwnerOperator, Step: "judge",
		Means: "A rule denies it. The narrowest service that any rule names decides, and there deny is before allow.",
		Check: "weft rule list {network}",
	},
	row.ReasonUnknownVTEP: {
		Owner: OwnerUnderlay, Step: "open_outer",
		Means: "A tunnel frame came from a host that the masters have not admitted as a node. Frames carry the sender's " +
			"groups, so they are taken from nodes alone.",
		Text:  "a tunnel frame came from {source}, which is no node of this cluster",
		Check: "weft node list; a node that is missing there is not admitted, anything else should not send here",
	},
	row.ReasonTooBig: {
		Owner: OwnerTask, Step: "check_size",
		Means: "Larger than the path to the other node takes, and there was no way to tell the sender: it is itself an " +
			"ICMP error, or a later fragment.",
		Text:  "{src} sent {length} bytes to {dst}, more than the path takes, and can't be told",
		Check: "let the task send less at once; its link's MTU fits every path: ip link show eth0",
	},
	row.ReasonFragment: {
		Owner: OwnerTask, Step: "judge",
		Means: "A later fragment has no port, a port would have to decide, and the first fragment was not let in before it.",
		Text:  "a later fragment of {src} to {dst}: its port would decide, and the first fragment was not let in",
		Check: "weft why {source} {destination} {protocol}/PORT tells of the first; smaller datagrams need no fragments",
	},
	row.ReasonNoBackend: {
		Owner: OwnerOperator, Step: "vip_out",
		Means: "The VIP is known, and none of its backends takes connections: there is none, or all are unhealthy.",
		Text:  "{src} sent to VIP {destination}, which has no backend that is in",
		Check: "weft vip list; weft vip show NAME tells of each backend why it is out",
	},
	row.ReasonNotPublic: {
		Owner: OwnerOperator, Step: "judge",
		Means: "From outside of every network, by way of the node, to a task that is not in group public and that no " +
			"rule from world reaches.",
		Check: "weft rule add {network} --from world --to GROUP --port {service}",
	},
	row.ReasonEncapFailed: {
		Owner: OwnerNode, Step: "encap",
		Means: "The kernel refused to make room for the tunnel's headers, or the VXLAN device for odd packets is missing.",
		Text:  "node {node} could not put tunnel headers before a packet of {length} bytes from {src} to {dst}",
		Check: "weft doctor; the log of weft netd",
	},
	row.ReasonRedirectFailed: {
		Owner: OwnerNode, Step: "deliver",
		Means: "The kernel refused the way out: the link or the namespace went away while the packet was on its way.",
		Text:  "node {node} could not hand the packet of {src} to {dst} on",
		Check: "weft task list; weft doctor",
	},
	row.ReasonMulticast: {
		Owner: OwnerTask, Step: "check_destination",
		Means: "Multicast and broadcast are not carried: there is no flooding in a network of this kind.",
		Text:  "{sender} sent to {destination}: multicast and broadcast are not carried",
		Check: "find the others by name or VIP instead: weft name show NAME",
	},
	row.ReasonBadTunnel: {
		Owner: OwnerUnderlay, Step: "open_tunnel",
		Means: "The tunnel header has flags that this build does not know, or the frame was marked for congestion though " +
			"what it carries can't be (RFC 6040).",
		Text:  "a tunnel frame from {source} has flags that this build does not know, or a congestion mark that can't be carried on",
		Check: "weft status compares the builds of the nodes; a VXLAN sender that is not Weft must send plain headers",
	},
	row.ReasonNotServed: {
		Owner: OwnerOperator, Step: "edge_steer",
		Means: "At the edge: the address is a VIP's, and the VIP has no such port.",
		Text:  "{source} asked {destination}, an address of VIPs that has none at {service}",
		Check: "weft vip list",
	},
	row.ReasonExtension: {
		Owner: OwnerUnderlay, Step: "edge_parse",
		Means: "At the edge: IPv6 extension headers stand where ports are needed.",
		Text:  "{source} sent IPv6 extension headers to VIP {destination}: the edge needs ports behind the IPv6 header",
		Check: "let the client send without extension headers",
	},
	row.ReasonWrongNetwork: {
		Owner: OwnerOperator, Step: "check_plain",
		Means: "A plain node, a host with a VXLAN device and no Weft, sent a frame of another network than the one that it " +
			"was added to.",
		Text:  "a plain node sent {src} to {dst} by a network that it is not in",
		Check: "on the plain node: ip -d link show type vxlan; its id must be the vni of its network (weft node show NODE, weft network list)",
	},
	row.ReasonSpoofedBlock: {
		Owner: OwnerOperator, Step: "check_plain",
		Means: "A plain node may send from the blocks alone that it was given when it was added, also in ARP and neighbour " +
			"discovery.",
		Text:  "a plain node sent as {source} to {dst}, which is not of its blocks",
		Check: "weft node show NODE has its blocks; on the plain node: ip address show, and masquerade what is not of them",
	},
}
