/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* What arrives for a task of this node, from a node that is known: the same for both ways in. */

#include "lib/decap.h"
#include "lib/neighbour.h"
#include "lib/policy.h"
#include "lib/route.h"
#include "lib/serve.h"
#include "lib/vip.h"

/* What no task of ours would have been let send: frames of other senders are not trusted to. */
static __always_inline int check_inner(struct packet *p)
{
	if (p->ethertype == bpf_htons(ETHERTYPE_ARP))
		return drop(p, REASON_NOT_IP);
	if (is_link_talk(p))
		return drop(p, REASON_CHATTER);
	if (is_multicast(p, &p->src) || is_nowhere(p, &p->src))
		return drop(p, REASON_MALFORMED);
	return check_destination(p);
}

/* No task has the address: a VIP of the edge, for a task of this node? */
static __always_inline int receive_client(struct __sk_buff *skb, struct packet *p, __u32 base,
					  __u8 tos)
{
	struct edge_task task;

	if (p->src_identity != IDENTITY_WORLD || read_task(skb, base, &task))
		return drop(p, REASON_NO_ENDPOINT);
	return serve(skb, p, &task, base, tos);
}

/*
 * Judges and delivers the frame at offset base, which is parsed. vni and identity of the sender are
 * in p already; tos is the outer header's, where base is not 0.
 */
static __always_inline int receive(struct __sk_buff *skb, struct packet *p, __u32 base, __u8 tos)
{
	struct endpoint_key key = {.vni = p->vni};
	const struct endpoint *e;
	int verdict = check_inner(p);

	if (verdict != CONTINUE)
		return verdict;
	/* Datagrams that were joined (UDP GSO) can't be opened here: they would be lost unseen. */
	if (base && skb->gso_size && p->proto != PROTO_TCP)
		return slow_path(p);
	key.addr = p->dst;
	e = bpf_map_lookup_elem(&endpoints, &key);
	if (!e)
		return receive_client(skb, p, base, tos);
	verdict = judge(skb, p, e);
	if (verdict == CONTINUE)
		verdict = decap(skb, p, base, tos);
	if (verdict == CONTINUE)
		verdict = vip_in(skb, p, e->ifindex);
	return verdict == CONTINUE ? deliver(skb, p, e) : verdict;
}
