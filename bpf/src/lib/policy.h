/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Who may talk: one look-up by the pair of identities. Where protocol and port decide, the row
 * names clauses, and those are one look-up more (two where they are many), whatever the number of
 * rules.
 */

#include "lib/flow.h"

/* Whether p comes from outside of every network: processes of other nodes are of the world. */
static __always_inline bool is_outside(const struct packet *p)
{
	return p->src_identity == IDENTITY_WORLD || p->src_identity == IDENTITY_OTHER_NODE;
}

/* Who sends: an identity or, of the world, the prefix that a rule names. */
static __always_inline __u32 source_of(const struct packet *p, const struct endpoint *e)
{
	struct source_key key = {.len = 160, .vni = p->vni, .addr = p->src};
	const struct source *s;

	if (!(e->flags & ENDPOINT_PREFIXED) || !is_outside(p))
		return p->src_identity;
	s = bpf_map_lookup_elem(&sources, &key);
	return s ? s->src : p->src_identity;
}

/* What clauses are asked for: above every clause of the same protocol and port. */
static __always_inline __u32 asked(const struct packet *p)
{
	__u32 port = p->fragment == FRAGMENT_LATER || is_icmp(p) ? 0 : bpf_ntohs(p->dport);

	return (__u32)row_proto(p) << 24 | port << 8 | 0xff;
}

/* The last clause that starts at or before what is asked for: five steps. */
static __always_inline const struct clause *last_clause(const struct clauses *c, __u32 asked)
{
	__u32 at = 0;

	for (__u32 step = CLAUSES_MAX / 2; step; step /= 2) {
		__u32 next = at + step;

		if (next < c->count && c->list[next & (CLAUSES_MAX - 1)].start <= asked)
			at = next;
	}
	return &c->list[at & (CLAUSES_MAX - 1)];
}

/*
 * Rule << 8 | enum verdict_action, of clauses. Global: verified once, and its key would not fit the
 * caller's stack.
 */
__noinline __u64 read_clauses(__u64 id, __u32 asked)
{
	struct clauses_key key = {.id = id};

	for (int page = 0; page < 2; page++) {
		const struct clauses *c = bpf_map_lookup_elem(&clauses, &key);
		const struct clause *found;

		if (!c)
			break;
		found = last_clause(c, asked);
		if ((found->start & 0xff) != VERDICT_PAGE)
			return (__u64)found->rule << 8 | (found->start & 0xff);
		key.page = found->rule;
	}
	return VERDICT_NONE;
}

/* Notes the rule; narrow tells that protocol and port decided. */
static __always_inline __u32 find_verdict(struct packet *p, const struct endpoint *e, bool *narrow)
{
	struct verdict_key key = {.vni = p->vni, .src = source_of(p, e), .dst = e->identity};
	const struct verdict *v = bpf_map_lookup_elem(&verdicts, &key);
	__u64 found;

	if (!v)
		return VERDICT_NONE;
	*narrow = v->clauses;
	found = v->clauses ? read_clauses(v->clauses, asked(p)) : (__u64)v->rule << 8 | v->action;
	p->rule = found >> 8;
	return found & 0xff;
}

static __always_inline int refuse(struct packet *p, __u32 action, bool narrow)
{
	if (action == VERDICT_DENY)
		return drop(p, REASON_DENIED);
	if (is_outside(p))
		return drop(p, REASON_NOT_PUBLIC);
	if (p->fragment == FRAGMENT_LATER && narrow)
		return drop(p, REASON_FRAGMENT);
	return drop(p, REASON_NO_COMMON_GROUP);
}

/*
 * Lets p through to e, or ends its walk. What answers a conversation passes whatever the verdict on
 * its direction says: permissions are about who opens.
 */
static __always_inline int judge(struct __sk_buff *skb, struct packet *p, const struct endpoint *e)
{
	bool narrow = false, allowed;
	__u32 action = find_verdict(p, e, &narrow);

	p->dst_identity = e->identity;
	allowed = action == VERDICT_ALLOW || action == VERDICT_AUDIT;
	if (allowed) {
		p->audited = action == VERDICT_AUDIT;
		if (!tells_opener(p) || starts_answer(p))
			heard(p, e->ifindex);
	} else if (answers(skb, p, e->ifindex)) {
		p->rule = 0;
	} else {
		return refuse(p, action, narrow);
	}
	/* Where the pair of identities does not decide, later fragments ask for the first. */
	if (p->fragment == FRAGMENT_FIRST && (!allowed || narrow))
		lead(skb, p);
	return CONTINUE;
}
