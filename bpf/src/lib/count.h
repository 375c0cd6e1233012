/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * The last step of every program: each packet is counted once, by the reason for which its walk
 * ended, and some are reported. Drops and audits are reported up to the limit of a second; of what
 * passes every 1024th, so that a look at the traffic costs it nothing. What is traced is reported
 * whole, for as long and as often as the trace says.
 */

#include "lib/config.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/trace.h"

enum {
	SAMPLE_MASK = 1023,
	SECOND_NS = 1000000000,
};

/* Whether this second has room for one more event of the reason on this CPU. */
static __always_inline bool may_report(__u32 reason, __u64 now)
{
	struct sample *s = bpf_map_lookup_elem(&samples, &reason);

	if (!s)
		return false;
	if (now - s->since > SECOND_NS) {
		s->since = now;
		s->events = 0;
	}
	if (s->events >= events_per_second)
		return false;
	s->events++;
	return true;
}

/* Global: off the way of most packets. */
__noinline int report(struct __sk_buff *skb, const struct packet *p, enum program program,
		      bool traced)
{
	__u64 now = bpf_ktime_get_ns();
	struct event *e;

	if (!p || (!traced && !may_report(p->reason, now)))
		return 0;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		return 0;
	e->time = now;
	e->ifindex = skb->ifindex;
	e->vni = p->vni;
	e->rule = p->rule;
	e->len = p->len;
	e->src = p->src;
	e->dst = p->dst;
	e->sport = p->sport;
	e->dport = p->dport;
	e->src_identity = p->src_identity;
	e->dst_identity = p->dst_identity;
	e->proto = p->proto;
	e->reason = p->reason;
	e->program = program;
	e->traced = traced;
	memset(e->pad, 0, sizeof(e->pad));
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline void count(struct __sk_buff *skb, const struct packet *p,
				  enum program program)
{
	__u32 reason = p->reason;
	bool traced;
	struct counter *c = bpf_map_lookup_elem(&counters, &reason);

	if (!c)
		return;
	c->packets++;
	c->bytes += p->len;
	if (!events_per_second || reason == REASON_NOT_OURS)
		return;
	traced = tracing && is_traced(p);
	if (traced || reason >= REASON_DROP || reason == REASON_AUDITED ||
	    (c->packets & SAMPLE_MASK) == 1)
		report(skb, p, program, traced);
}
