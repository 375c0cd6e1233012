// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * What processes of the node send to tasks of other nodes. Routes lead all networks to a device of
 * the node, where this is met (egress); those to tasks of its own lead to their links.
 *
 *   from_node
 *     1. the node's own row, by the device              workloads
 *     2. parse, and nothing but packets to somebody     lib/parse.h, lib/neighbour.h, lib/route.h
 *     3. from the node's address towards the networks   lib/spoof.h
 *     4. of which network the destination is            prefixes
 *     5. the node that has it: size, tunnel, underlay   lib/route.h, lib/toobig.h, lib/encap.h
 *        a plain node: verdict before                   lib/plain.h
 *
 * Answers come by tunnel, to lib/receive.h, and enter the stack by the same device.
 */

#include "lib/count.h"
#include "lib/encap.h"
#include "lib/neighbour.h"
#include "lib/parse.h"
#include "lib/plain.h"
#include "lib/route.h"
#include "lib/spoof.h"
#include "lib/toobig.h"

static __always_inline int go(struct __sk_buff *skb, struct packet *p, const struct workload *w)
{
	const struct prefix *net = find_network(&p->dst);
	const struct block *to;
	int verdict;

	if (!net || net->vni == VNI_NODES) /* nodes reach each other by the underlay */
		return drop(p, REASON_NO_BLOCK);
	p->vni = net->vni;
	to = block_of(net->vni, &p->dst, net->block);
	if (!to)
		return drop(p, REASON_NO_BLOCK);
	if (to->flags & BLOCK_LOCAL) /* a task's link would have had a route */
		return drop(p, REASON_NO_ENDPOINT);
	verdict = to->flags & BLOCK_PLAIN ? judge_plain(skb, p, to) : CONTINUE;
	if (verdict == CONTINUE)
		verdict = check_size(skb, p, w, to);
	return verdict == CONTINUE ? encap(skb, p, to) : verdict;
}

static __always_inline int walk(struct __sk_buff *skb, struct packet *p)
{
	__u32 ifindex = skb->ifindex;
	const struct workload *w = bpf_map_lookup_elem(&workloads, &ifindex);
	int verdict;

	if (!w)
		return drop(p, REASON_UNKNOWN_LINK);
	p->src_identity = w->identity;
	verdict = parse(skb, p, 0);
	if (verdict != CONTINUE)
		return verdict;
	if (p->ethertype == bpf_htons(ETHERTYPE_ARP))
		return drop(p, REASON_NOT_IP);
	if (is_link_talk(p) || is_multicast(p, &p->dst)) /* what stacks say on every device */
		return drop(p, REASON_CHATTER);
	verdict = check_source(p, w);
	return verdict == CONTINUE ? go(skb, p, w) : verdict;
}

SEC("tc")
int from_node(struct __sk_buff *skb)
{
	struct packet p = {.len = skb->len};
	int verdict;

	if (waits())
		return TCX_NEXT;
	verdict = walk(skb, &p);
	count(skb, &p, PROGRAM_FROM_NODE);
	return verdict;
}

char licence[] SEC("license") = "Dual BSD/GPL";
