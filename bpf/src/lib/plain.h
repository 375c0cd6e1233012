/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * A plain node: a host with a VXLAN device of the kernel's and no Weft (struct vtep). Its frames
 * come by this node's device, and what is sent to it leaves by it, so checksums, segmentation and
 * fragments are as the kernel has them. What Weft's own sender does is done here for it: the
 * identity is given, the source is checked, what it opens is remembered, and its questions for
 * tasks of this node are answered.
 */

#include "lib/encap.h"
#include "lib/neighbour.h"
#include "lib/policy.h"
#include "lib/route.h"

/* A plain node has no link: what it opens counts for none. */
enum { PLAIN_LINK = 0 };

static __always_inline bool holds(const struct vtep *v, const struct addr *vtep,
				  const struct addr *a)
{
	int bits = is_mapped(a) ? v->block4 + 96 : v->block6;
	const struct block *b = block_of(v->vni, a, bits);

	return b && same_addr(&b->vtep, vtep);
}

static __always_inline bool is_task(const struct packet *p, const struct addr *a)
{
	struct endpoint_key key = {.vni = p->vni, .addr = *a};

	return bpf_map_lookup_elem(&endpoints, &key) != NULL;
}

/* Sends the answer that the frame was made. */
static __always_inline int answer_plain(struct __sk_buff *skb, struct packet *p,
					const struct addr *vtep, enum reason reason)
{
	struct block to = {.vtep = *vtep, .flags = BLOCK_PLAIN};
	int verdict = encap_slow(skb, p, &to);

	if (p->reason == REASON_ENCAPSULATED)
		p->reason = reason;
	return verdict;
}

/*
 * A VXLAN device that has no row for a task asks all nodes, of which the task's answers. All
 * others, and what is told without being asked, end without a word.
 */
static __always_inline int plain_arp(struct __sk_buff *skb, struct packet *p, const struct vtep *v,
				     const struct addr *vtep)
{
	struct arp arp;

	if (read_arp(skb, p, &arp))
		return drop(p, REASON_MALFORMED);
	if (arp.operation != bpf_htons(ARP_REQUEST) || !arp.sender || !is_task(p, &p->dst))
		return drop(p, REASON_CHATTER);
	if (!holds(v, vtep, &p->src))
		return drop(p, REASON_SPOOFED_BLOCK);
	if (reply_arp(skb, &arp, v->own_mac))
		return drop(p, REASON_REDIRECT_FAILED);
	return answer_plain(skb, p, vtep, REASON_ANSWERED_ARP);
}

static __always_inline int plain_solicitation(struct __sk_buff *skb, struct packet *p,
					      const struct vtep *v, const struct addr *vtep)
{
	struct link_ends ends;
	struct addr asked;

	if (read_solicitation(skb, p, &asked))
		return drop(p, REASON_MALFORMED);
	if (no_addr(&p->src) || !is_task(p, &asked))
		return drop(p, REASON_CHATTER);
	if (!is_link_local(&p->src) && !holds(v, vtep, &p->src))
		return drop(p, REASON_SPOOFED_BLOCK);
	memcpy(ends.to, v->as.mac, 6);
	memcpy(ends.from, v->own_mac, 6);
	if (advertise(skb, &ends, &p->src, &asked))
		return drop(p, REASON_MALFORMED);
	return answer_plain(skb, p, vtep, REASON_ANSWERED_ND);
}

/*
 * What keeps the plain node's link going: ends here. Global: the answers would not fit the
 * caller's stack.
 */
__noinline int hear_plain(struct __sk_buff *skb, struct packet *p, const struct addr *from)
{
	const struct vtep *v;
	struct addr vtep;

	if (!p || !from)
		return TCX_DROP;
	vtep = *from; /* Linux 6.1 takes no key from an argument */
	v = bpf_map_lookup_elem(&vteps, &vtep);
	if (v && p->ethertype == bpf_htons(ETHERTYPE_ARP))
		return plain_arp(skb, p, v, &vtep);
	if (v && !is_ipv4(p) && p->icmp == ICMPV6_NEIGHBOUR_SOLICIT)
		return plain_solicitation(skb, p, v, &vtep);
	return drop(p, REASON_CHATTER);
}

/* Whether the frame of a plain node may go on, which is parsed; else it ended here. */
static __always_inline int check_plain(struct __sk_buff *skb, struct packet *p,
				       const struct vtep *v, const struct addr *vtep)
{
	if (p->vni != v->vni)
		return drop(p, REASON_WRONG_NETWORK);
	p->src_identity = v->as.identity;
	if (p->ethertype == bpf_htons(ETHERTYPE_ARP) || is_link_talk(p))
		return hear_plain(skb, p, vtep);
	if (is_multicast(p, &p->dst)) /* which its stack sends of itself */
		return drop(p, REASON_CHATTER);
	if (!holds(v, vtep, &p->src))
		return drop(p, REASON_SPOOFED_BLOCK);
	if (v->flags & VTEP_DIRECTED)
		remember(p, PLAIN_LINK);
	return CONTINUE;
}

/* Whether a task's packet may go to a plain node, which judges nothing itself. */
static __always_inline int judge_plain(struct __sk_buff *skb, struct packet *p,
				       const struct block *to)
{
	const struct vtep *v = bpf_map_lookup_elem(&vteps, &to->vtep);

	return v ? judge(skb, p, &v->as) : drop(p, REASON_NO_BLOCK);
}
