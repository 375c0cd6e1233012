/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Where addresses live. */

#include "shared/layout.h"
#include "shared/task.h"

enum reserved_vni {
	VNI_NODES = 0, /* no network: the processes of nodes, each with an address as its block */
};

/* The address is masked to the network's block length. */
struct block_key {
	__u32 vni;
	struct addr addr;
};

enum block_flags {
	BLOCK_LOCAL = 1 << 0, /* this node's own */
	BLOCK_PLAIN = 1 << 1, /* of a plain node: see struct vtep */
	BLOCK_SECOND_PORT = 1 << 2, /* the first tunnel port does not reach the node */
};

/* blocks: block of addresses -> the node that holds it. Go writes. */
struct block {
	struct addr vtep; /* underlay address of the node */
	__u16 mtu; /* largest inner IP packet towards that node, bytes */
	__u16 flags;
};

_Static_assert(sizeof(struct block) == 20, "block");

/*
 * prefixes: LPM trie of every network's subnets, and those that nodes have their addresses from.
 * Asked of tasks' packets only after blocks had no answer.
 */
struct prefix_key {
	__u32 len; /* of the 128-bit form: IPv4 /8 is 104 */
	struct addr addr;
};

struct prefix {
	__u32 vni; /* or enum reserved_vni */
	__u8 block; /* length of a node's block in it, of the 128-bit form */
	__u8 pad[3];
};

_Static_assert(sizeof(struct prefix) == 8, "prefix");

enum vtep_flags {
	VTEP_PLAIN =
		1 << 0, /* a host with a VXLAN device and no Weft: what follows is of it alone */
	VTEP_DIRECTED = 1 << 1, /* its network has rules or public: what it opens is remembered */
};

/*
 * vteps: the nodes whose frames are accepted (struct addr -> struct vtep). Go writes. A plain node
 * sends and knows no identities: its frames count as those of one endpoint in one network, from the
 * blocks that it holds, and what is sent to it is judged here.
 */
struct vtep {
	__u32 flags;
	__u32 vni;
	struct endpoint as; /* without a link; mac is of its VXLAN device */
	__u8 own_mac[6]; /* of this node, as the plain one knows it */
	__u8 block4; /* as in struct workload */
	__u8 block6;
	__be32 host; /* IPv4 address of the node's own processes: its block in VNI_NODES; 0: none */
};

_Static_assert(sizeof(struct vtep) == 36, "vtep");
