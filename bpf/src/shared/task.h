/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Who is who within a network, and the tasks of this node. */

#include "shared/layout.h"

/*
 * Who a packet is from or to, within one network (VNI). Travels in the VXLAN group policy field.
 * Identities from IDENTITY_FIRST on are sets of groups, numbered by the master.
 */
enum identity {
	IDENTITY_NONE = 0, /* the frame carries none: a VXLAN sender that is not ours */
	IDENTITY_WORLD = 1, /* outside of every network */
	IDENTITY_NODE = 2, /* the task's own node */
	IDENTITY_UNGROUPED = 3, /* a task without groups */
	IDENTITY_OTHER_NODE = 4, /* processes of another node than the task's */
	IDENTITY_FIRST = 16,
};

enum workload_flags {
	WORKLOAD_DIRECTED =
		1 << 0, /* its network has rules or public: what it opens is remembered */
};

/*
 * workloads: host-side ifindex (u32) -> who sends on that link. The node itself is there too, in
 * VNI_NODES, by the device that its own packets to the networks leave by. Go writes.
 */
struct workload {
	__u32 vni;
	__u16 identity;
	__u16 mtu; /* of the task's link: largest inner IP packet, bytes */
	__u32 flags;
	__u8 mac[6];
	__u8 block4; /* prefix length of a node's IPv4 block in this network, 0: no IPv4 */
	__u8 block6; /* the same for IPv6, 0: no IPv6 */
	struct addr addr4; /* zero: none */
	struct addr addr6;
};

_Static_assert(sizeof(struct workload) == 52, "workload");

struct endpoint_key {
	__u32 vni;
	struct addr addr;
};

_Static_assert(sizeof(struct endpoint_key) == 20, "endpoint_key");

enum endpoint_flags {
	ENDPOINT_PREFIXED = 1 << 0, /* rules towards it name addresses of the world: ask sources */
};

/* endpoints: address of a task of this node, or in VNI_NODES its own -> the link. Go writes. */
struct endpoint {
	__u32 ifindex; /* host side */
	__u16 identity;
	__u16 flags;
	__u8 mac[6];
	__u8 pad[2];
};

_Static_assert(sizeof(struct endpoint) == 16, "endpoint");
