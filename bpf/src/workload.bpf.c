// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * The host's end of a task's link.
 *
 * from_workload (ingress), a task's packet:
 *   1. find the task by its link             workloads
 *   2. parse                                 lib/parse.h
 *   3. its own MAC                           lib/spoof.h
 *   4. ARP, neighbour discovery, chatter     lib/neighbour.h
 *   5. somewhere to go, from its own address lib/route.h, lib/spoof.h
 *   6. a name asked of the node              lib/answer.h
 *   7. the way: to a task here, to another node, or to the node's own stack
 *        none:   a VIP becomes a backend, which has one          lib/vip.h
 *        here:   verdict, VIP of an answer, into the task        lib/policy.h, lib/deliver.h
 *        remote: size, tunnel, out of the underlay               lib/toobig.h, lib/encap.h
 *                to a plain node: verdict before                 lib/plain.h
 *        else:   to a client of the edge, from the VIP           lib/serve.h
 *                or, as remote, to the edge node that it came by
 *                of no block of a network, or left to the stack  lib/route.h
 *                to another node's own processes: as remote
 *
 * to_workload (egress), what the node's own stack gives to the task: the node itself may always,
 * the world is judged, and may come in where a port of the node leads (lib/opening.h).
 */

#include "lib/answer.h"
#include "lib/count.h"
#include "lib/deliver.h"
#include "lib/encap.h"
#include "lib/neighbour.h"
#include "lib/opening.h"
#include "lib/parse.h"
#include "lib/plain.h"
#include "lib/policy.h"
#include "lib/route.h"
#include "lib/serve.h"
#include "lib/spoof.h"
#include "lib/toobig.h"
#include "lib/vip.h"

/* The task at the other end of the link. */
static __always_inline const struct workload *find_workload(struct __sk_buff *skb, struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	const struct workload *w = bpf_map_lookup_elem(&workloads, &ifindex);

	p->len = skb->len;
	if (w)
		p->vni = w->vni;
	return w;
}

static __always_inline const struct endpoint *find_endpoint(const struct packet *p)
{
	struct endpoint_key key = {.vni = p->vni, .addr = p->dst};

	return bpf_map_lookup_elem(&endpoints, &key);
}

/* To a task of this node. What a task sends to itself comes here by way of a VIP alone. */
static __always_inline int go_here(struct __sk_buff *skb, struct packet *p)
{
	const struct endpoint *e = find_endpoint(p);
	int verdict;

	if (!e)
		return drop(p, REASON_NO_ENDPOINT);
	if (e->ifindex != skb->ifindex) {
		verdict = judge(skb, p, e);
		if (verdict != CONTINUE)
			return verdict;
	}
	verdict = vip_in(skb, p, e->ifindex);
	if (verdict != CONTINUE)
		return verdict;
	return deliver(skb, p, e);
}

static __always_inline int go_remote(struct __sk_buff *skb, struct packet *p,
				     const struct workload *w, const struct block *to)
{
	int verdict;

	if (p->translated && is_too_big(skb, p, to))
		vip_undo(skb, p);
	verdict = check_size(skb, p, w, to);
	return verdict == CONTINUE ? encap(skb, p, to) : verdict;
}

/* Out of the network. */
static __always_inline int go_out(struct __sk_buff *skb, struct packet *p, const struct workload *w)
{
	int verdict = answer_client(skb, p);
	struct addr node = p->dst;
	const struct block *to;

	if (verdict == BY_EDGE)
		edge_of_answer(&node);
	else if (verdict == CONTINUE)
		verdict = leave(skb, p);
	if (verdict != CONTINUE && verdict != BY_EDGE)
		return verdict;
	to = find_node(&node);
	if (!to)
		return drop(p, REASON_NO_BLOCK);
	if (to->flags & BLOCK_LOCAL)
		return end(p, REASON_TO_HOST, TCX_NEXT);
	return go_remote(skb, p, w, to);
}

static __always_inline int go(struct __sk_buff *skb, struct packet *p, const struct workload *w)
{
	const struct block *to = find_block(p, w);
	int verdict;

	if (to) { /* no VIP's address is in a block */
		vip_direct(skb, p);
	} else {
		verdict = vip_out(skb, p);
		if (verdict != CONTINUE)
			return verdict;
		to = find_block(p, w);
	}
	if (!to)
		return go_out(skb, p, w);
	if (w->flags & WORKLOAD_DIRECTED)
		remember(p, skb->ifindex);
	if (to->flags & BLOCK_LOCAL)
		return go_here(skb, p);
	verdict = to->flags & BLOCK_PLAIN ? judge_plain(skb, p, to) : CONTINUE;
	return verdict == CONTINUE ? go_remote(skb, p, w, to) : verdict;
}

static __always_inline int walk_from(struct __sk_buff *skb, struct packet *p)
{
	const struct workload *w = find_workload(skb, p);
	int verdict;

	if (!w)
		return drop(p, REASON_UNKNOWN_LINK);
	p->src_identity = w->identity;
	verdict = parse(skb, p, 0);
	if (verdict == CONTINUE)
		verdict = check_mac(skb, p, w);
	if (verdict == CONTINUE)
		verdict = answer_neighbour(skb, p, w);
	if (verdict == CONTINUE)
		verdict = check_destination(p);
	if (verdict == CONTINUE)
		verdict = check_source(p, w);
	if (verdict == CONTINUE)
		verdict = answer_name(skb, p);
	return verdict == CONTINUE ? go(skb, p, w) : verdict;
}

SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	struct packet p = {};
	int verdict;

	if (waits())
		return TCX_NEXT;
	verdict = walk_from(skb, &p);
	count(skb, &p, PROGRAM_FROM_WORKLOAD);
	return verdict;
}

/* From outside of every network, by way of the node's stack. */
static __always_inline int admit(struct __sk_buff *skb, struct packet *p)
{
	const struct endpoint *e = find_endpoint(p);
	int verdict;

	if (p->ethertype == bpf_htons(ETHERTYPE_ARP))
		return drop(p, REASON_NOT_IP);
	p->src_identity = IDENTITY_WORLD;
	if (!e || e->ifindex != skb->ifindex)
		return drop(p, REASON_NO_ENDPOINT);
	verdict = judge(skb, p, e);
	return p->reason == REASON_NOT_PUBLIC ? open_port(skb, p, verdict) : verdict;
}

/* What the node itself sends is the task's stack to judge; an answer may come from a VIP. */
static __always_inline int pass_own(struct __sk_buff *skb, struct packet *p, int parsed)
{
	p->src_identity = IDENTITY_NODE;
	if (parsed == CONTINUE && vip_in(skb, p, skb->ifindex) != CONTINUE)
		return TCX_DROP;
	return end(p, REASON_FROM_HOST, TCX_NEXT);
}

static __always_inline int walk_to(struct __sk_buff *skb, struct packet *p)
{
	const struct workload *w = find_workload(skb, p);
	int verdict;

	if (!w)
		return drop(p, REASON_UNKNOWN_LINK);
	verdict = parse(skb, p, 0);
	if (!skb->ingress_ifindex)
		return pass_own(skb, p, verdict);
	if (verdict == CONTINUE)
		verdict = admit(skb, p);
	if (verdict == CONTINUE)
		verdict = vip_in(skb, p, skb->ifindex);
	if (verdict != CONTINUE)
		return verdict;
	return end(p, p->audited ? REASON_AUDITED : REASON_DELIVERED, TCX_NEXT);
}

SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	struct packet p = {};
	int verdict;

	if (waits())
		return TCX_NEXT;
	verdict = walk_to(skb, &p);
	count(skb, &p, PROGRAM_TO_WORKLOAD);
	return verdict;
}

char licence[] SEC("license") = "Dual BSD/GPL";
