/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Constants of this node, set when the programs are loaded (not pinned, so each load may choose
 * anew). A switch that is off leaves no instruction behind: the verifier removes what it guards.
 * An object holds those it uses.
 */

#include "headers/kernel.h"
#include "shared/rows.h"

/*
 * The node's underlay address: source of what is sent, destination of what is accepted. Tunnels run
 * over one family, that of node_addr6 where underlay6 says so.
 */
const volatile __be32 node_addr4;
const volatile struct addr node_addr6;
const volatile bool underlay6;
/* Interfaces of the node: the underlay, and the VXLAN device of the slow path (0: there is none).
 */
const volatile __u32 underlay_ifindex;
const volatile __u32 tunnel_ifindex;
/*
 * Of the underlay's own network: nodes in it are neighbours, so frames to them need no route. 0:
 * each frame asks the routes, which costs as much as half of this program.
 */
const volatile __be32 underlay_mask;
const volatile struct addr underlay_mask6;
/* UDP port of tunnel frames, host order. */
const volatile __u16 tunnel_port = 4789;
/*
 * The same for nodes to which something on the way lets the first port through no more, and the
 * VXLAN device of it; 0: there is none. Frames are taken from both.
 */
const volatile __u16 tunnel_port2;
const volatile __u32 tunnel_ifindex2;
/* MAC of every host end: the gateway of all tasks. */
const volatile __u8 gateway_mac[6] = {0x0a, 0x77, 0x65, 0x66, 0x74, 0x01};
/* Addresses at which the node answers names; zero: none. */
const volatile struct addr dns_addr4;
const volatile struct addr dns_addr6;
/* Whether the recursion-available bit is set in answers of the kernel. */
const volatile bool dns_recursion = true;
/* Send, receive by the kernel's VXLAN device only. */
const volatile bool slow_encap;
const volatile bool slow_decap;
/* Events a second that each CPU reports per reason; 0: none. */
const volatile __u32 events_per_second = 100;

static __always_inline bool is_tunnel_port(__be16 port)
{
	return port == bpf_htons(tunnel_port) || (tunnel_port2 && port == bpf_htons(tunnel_port2));
}

/* Whether frames to the block's node go to the second port. */
static __always_inline bool is_second(const struct block *to)
{
	return tunnel_port2 && to->flags & BLOCK_SECOND_PORT;
}

/* A word of a constant address. Without volatile the compiler would take it for zero. */
static __always_inline __be32 constant(const volatile struct addr *a, int i)
{
	return ((const volatile __be32 *)a->bytes)[i];
}
