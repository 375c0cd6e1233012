/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Who may talk: one look-up by the pair of identities, three where rules name ports. */

#include "lib/flow.h"

/* Exact port, any port, any protocol: the first hit decides. */
static __always_inline const struct verdict *find_verdict(const struct packet *p,
							  const struct endpoint *e)
{
	struct verdict_key key = {
		.vni = p->vni,
		.src = p->src_identity,
		.dst = e->identity,
	};

	if (e->flags & ENDPOINT_RULED) {
		const struct verdict *v;

		key.proto = row_proto(p);
		if (p->fragment != FRAGMENT_LATER && !is_icmp(p)) {
			key.port = p->dport;
			v = bpf_map_lookup_elem(&verdicts, &key);
			if (v)
				return v;
			key.port = 0;
		}
		v = bpf_map_lookup_elem(&verdicts, &key);
		if (v)
			return v;
		key.proto = 0;
	}
	return bpf_map_lookup_elem(&verdicts, &key);
}

/* What a verdict lets in to a task that opens conversations itself: others open this one. */
static __always_inline void hear(struct packet *p, const struct endpoint *e)
{
	struct workload *w;

	if (tells_opener(p))
		return;
	w = bpf_map_lookup_elem(&workloads, &e->ifindex);
	if (w && w->flags & WORKLOAD_DIRECTED)
		heard(p);
}

static __always_inline int refuse(struct packet *p, const struct endpoint *e,
				  const struct verdict *v)
{
	if (v) {
		p->rule = v->rule;
		return drop(p, REASON_DENIED);
	}
	if (p->src_identity == IDENTITY_WORLD)
		return drop(p, REASON_NOT_PUBLIC);
	if (p->fragment == FRAGMENT_LATER && e->flags & ENDPOINT_RULED)
		return drop(p, REASON_FRAGMENT);
	return drop(p, REASON_NO_COMMON_GROUP);
}

/*
 * Lets p through to e, or ends its walk. What answers a conversation passes whatever the verdict on
 * its direction says: permissions are about who opens.
 */
static __always_inline int judge(struct __sk_buff *skb, struct packet *p, const struct endpoint *e)
{
	const struct verdict *v = find_verdict(p, e);
	bool allowed = v && v->action != VERDICT_DENY;

	p->dst_identity = e->identity;
	if (allowed) {
		p->rule = v->rule;
		p->audited = v->action == VERDICT_AUDIT;
		hear(p, e);
	} else if (!answers(skb, p)) {
		return refuse(p, e, v);
	}
	/* Where the pair of identities does not decide, later fragments ask for the first. */
	if (p->fragment == FRAGMENT_FIRST && (!allowed || e->flags & ENDPOINT_RULED))
		lead(skb, p);
	return CONTINUE;
}
