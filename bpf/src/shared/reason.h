/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Why a packet left a program. One list for counters, events, `weft why` and the docs; Go's names
 * are generated from it. Numbers are appended, never changed or used again. From REASON_DROP on the
 * packet was dropped.
 */
enum reason {
	REASON_NONE = 0,
	REASON_ENCAPSULATED = 1, /* sent to another node */
	REASON_DELIVERED = 2, /* given to a task of this node */
	REASON_TO_HOST = 3, /* left to the node's own stack: node or world */
	REASON_ANSWERED_ARP = 4, /* neighbour question of a task answered */
	REASON_ANSWERED_ND = 5, /* the same for IPv6 */
	REASON_ANSWERED_DNS = 6, /* name answered in the kernel */
	REASON_ANSWERED_TOO_BIG = 7, /* larger than the path: ICMP told the sender */
	REASON_SLOW_PATH = 8, /* left to the kernel's VXLAN device */
	REASON_NOT_OURS = 9, /* underlay traffic that is no tunnel frame for this node */
	REASON_DNS_MISS = 10, /* name or type without an answer here: left to the name server */
	REASON_AUDITED = 11, /* delivered, though a rule in audit mode would drop it */
	REASON_FROM_HOST = 12, /* from the node's own stack to its task */
	REASON_CHATTER = 13, /* router and group noise of a task's stack: dropped, no fault */
	REASON_ANSWERED_PROBE = 14, /* another node tries what the path carries: told it came */
	REASON_TO_CLIENT = 15, /* a task's answer to a client of the edge, sent from the VIP */
	REASON_RELAYED = 16, /* such an answer by another node's task, sent on by this edge node */
	REASON_DNS_UNREAD = 17, /* question of a form not read here: left to the name server */
	REASON_DNS_CHANGED = 18, /* answer changed while it was read: left to the name server */

	REASON_DROP = 64,
	REASON_MALFORMED = 64, /* headers shorter than they say, or not sensible */
	REASON_UNKNOWN_LINK = 65, /* the link belongs to no task */
	REASON_SPOOFED_MAC = 66, /* source MAC is not the task's */
	REASON_SPOOFED_ADDRESS = 67, /* source IP is not the task's */
	REASON_SPOOFED_TUNNEL = 68, /* a task sent tunnel frames of its own */
	REASON_NOT_IP = 69, /* neither IPv4, IPv6 nor ARP */
	REASON_NO_ENDPOINT = 70, /* no task has that address */
	REASON_NO_BLOCK = 71, /* no node holds that address */
	REASON_OTHER_NETWORK = 72, /* the address is of another network */
	REASON_NO_COMMON_GROUP = 73, /* neither common groups nor a rule */
	REASON_DENIED = 74, /* a rule denies */
	REASON_UNKNOWN_VTEP = 75, /* tunnel frame from a host that is no node */
	REASON_TOO_BIG = 76, /* larger than the path and no answer could be made */
	REASON_FRAGMENT = 77, /* a later fragment where a port would have to decide */
	REASON_NO_BACKEND = 78, /* the VIP has no backend */
	REASON_NOT_PUBLIC = 79, /* from outside to a task that is not public */
	REASON_ENCAP_FAILED = 80, /* the kernel refused to make room */
	REASON_REDIRECT_FAILED = 81, /* the kernel refused the way out */
	REASON_MULTICAST = 82, /* multicast and broadcast are not carried */
	REASON_BAD_TUNNEL = 83, /* tunnel header with flags this build does not know */
	REASON_NOT_SERVED = 84, /* to a VIP's address at the edge, but none of its ports */
	REASON_EXTENSION = 85, /* IPv6 extension headers where the edge needs ports */
	REASON_WRONG_NETWORK = 86, /* from a plain node, of a network that it is not in */
	REASON_SPOOFED_BLOCK = 87, /* from a plain node, but not of a block that it holds */

	REASON_MAX = 96, /* size of counters */
};
