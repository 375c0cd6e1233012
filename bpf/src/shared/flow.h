/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Who opened a conversation, and where the world may come in. */

#include "shared/layout.h"

/*
 * What tasks of this node opened, so that replies come back where no verdict covers them; key as
 * the opener sent it. LRU, the kernel half writes, Go reads:
 *
 *   attempts   not answered yet, or closed by the opener: a flood of these hurts these alone
 *   flows      answered
 *   datagrams  first fragments that were let in, for the later ones: protocol 44, and the
 *              datagram's id in place of the ports
 */
struct flow_key {
	__u32 vni;
	struct addr src;
	struct addr dst;
	__be16 sport; /* ICMP echo: the id in both ports */
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

_Static_assert(sizeof(struct flow_key) == 44, "flow_key");

enum flow_flags {
	FLOW_CLOSED = 1 << 0, /* the opener sent FIN or RST */
};

struct flow {
	__u64 seen; /* bpf_ktime_get_coarse_ns of a packet of the last second */
	__u32 flags;
	__u32 pad;
};

_Static_assert(sizeof(struct flow) == 16, "flow");

/*
 * openers: what a link may still add to attempts, so that one task's flood is its own harm. Array:
 * two entries a link, for what its task opens and for what others open towards it.
 */
struct opener {
	__u64 since; /* bpf_ktime_get_coarse_ns up to which `left` was filled */
	__s32 left; /* may be a little off: CPUs don't wait for each other */
	__u32 pad;
};

_Static_assert(sizeof(struct opener) == 16, "opener");

/* openings: ports of tasks that a port of the node leads to, so open to the world. Go writes. */
struct opening_key {
	__u32 vni;
	struct addr addr; /* of the task */
	__be16 port;
	__u8 proto;
	__u8 pad;
};

_Static_assert(sizeof(struct opening_key) == 24, "opening_key");

struct opening {
	__u16 host_port; /* of the node; of several the lowest */
	__u16 pad;
};

_Static_assert(sizeof(struct opening) == 4, "opening");
