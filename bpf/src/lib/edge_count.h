/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* As lib/count.h, for what the edge takes; what it leaves to others is counted there. */

#include "lib/count.h"
#include "lib/edge_parse.h"

/* Global: off the way of most packets. */
__noinline int edge_report(const struct edge_packet *e, __u32 ifindex)
{
	__u64 now = bpf_ktime_get_ns();
	struct event *event;

	if (!e || !may_report(e->reason, now))
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	memset(event, 0, sizeof(*event));
	event->time = now;
	event->ifindex = ifindex;
	event->len = e->len;
	event->src = e->flow.client;
	event->dst = e->flow.vip.addr;
	event->sport = e->flow.port;
	event->dport = e->flow.vip.port;
	event->src_identity = IDENTITY_WORLD;
	event->proto = e->flow.vip.proto;
	event->reason = e->reason;
	event->program = PROGRAM_EDGE;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline void edge_count(const struct edge_packet *e, __u32 ifindex)
{
	__u32 reason = e->reason;
	struct counter *c = bpf_map_lookup_elem(&counters, &reason);

	if (!c)
		return;
	c->packets++;
	c->bytes += e->len;
	if (events_per_second && (reason >= REASON_DROP || (c->packets & SAMPLE_MASK) == 1))
		edge_report(e, ifindex);
}
