/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Which packets are reported whole: those of a flow that somebody follows from program to program
 * and from node to node. While nobody does, this costs each packet one load.
 */

#include "lib/maps.h"
#include "lib/packet.h"

/* Go writes: whether traces has rows. Of this load of the programs: a new daemon begins without. */
volatile __u32 tracing;

static __always_inline bool takes_part(struct trace_key *key, __u64 now)
{
	struct trace *t = bpf_map_lookup_elem(&traces, key);

	/* Two CPUs may both take the last one: a report too many does no harm. */
	if (!t || now > t->until || !t->left)
		return false;
	t->left--;
	return true;
}

/* By one side alone: a VIP changes the other on the way. Global: off the way of most packets. */
__noinline int is_traced(const struct packet *p)
{
	__u64 now = bpf_ktime_get_ns();
	struct trace_key key = {};

	if (!p)
		return false;
	key.vni = p->vni;
	key.addr = p->src;
	key.port = p->sport;
	key.proto = p->proto == PROTO_ICMPV6 ? PROTO_ICMP : p->proto;
	if (takes_part(&key, now))
		return true;
	key.addr = p->dst;
	key.port = p->dport;
	if (takes_part(&key, now))
		return true;
	key.port = 0;
	key.proto = 0;
	if (takes_part(&key, now))
		return true;
	key.addr = p->src;
	return takes_part(&key, now);
}
