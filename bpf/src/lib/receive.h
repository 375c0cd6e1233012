/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* What arrives for a task of this node or itself, from a node that is known: both ways in. */

#include "lib/decap.h"
#include "lib/neighbour.h"
#include "lib/policy.h"
#include "lib/relay.h"
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

/* A VIP of the edge, for a task of this node? */
static __always_inline int receive_client(struct __sk_buff *skb, struct packet *p, __u32 base,
					  __u8 tos)
{
	struct edge_task task;

	if (read_task(skb, base, &task))
		return drop(p, REASON_NO_ENDPOINT);
	return serve(skb, p, &task, base, tos);
}

static __always_inline const struct endpoint *find_own(const struct addr *a)
{
	struct endpoint_key key = {.vni = VNI_NODES, .addr = *a};

	return bpf_map_lookup_elem(&endpoints, &key);
}

/*
 * From a task to this node's own processes: whom they listen to is the node's firewall's, who sends
 * is checked here. Global: it has keys of its own, and tasks' packets do not come here.
 */
__noinline int receive_own(struct __sk_buff *skb, struct packet *p, __u32 base, __u8 tos)
{
	const struct endpoint *e;
	const struct prefix *net;
	int verdict;

	if (!p)
		return TCX_DROP;
	e = find_own(&p->dst);
	if (!e)
		return relay(skb, p, base, tos);
	p->dst_identity = e->identity;
	net = find_network(&p->src);
	if (!net || net->vni != p->vni)
		return drop(p, REASON_SPOOFED_ADDRESS);
	verdict = decap(skb, p, base, tos);
	return verdict == CONTINUE ? deliver_own(skb, p, e) : verdict;
}

/* Whether the source is of a node's processes. Global: its key would not fit the caller's stack. */
__noinline int is_from_node(const struct packet *p)
{
	return p && find_node(&p->src);
}

/* No task has the address. */
static __always_inline int receive_else(struct __sk_buff *skb, struct packet *p, __u32 base,
					__u8 tos)
{
	if (p->src_identity == IDENTITY_WORLD)
		return receive_client(skb, p, base, tos);
	return receive_own(skb, p, base, tos);
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
		return receive_else(skb, p, base, tos);
	if (p->src_identity == IDENTITY_OTHER_NODE && !is_from_node(p))
		return drop(p, REASON_SPOOFED_ADDRESS);
	verdict = judge(skb, p, e);
	if (verdict == CONTINUE)
		verdict = decap(skb, p, base, tos);
	if (verdict == CONTINUE)
		verdict = vip_in(skb, p, e->ifindex);
	return verdict == CONTINUE ? deliver(skb, p, e) : verdict;
}
