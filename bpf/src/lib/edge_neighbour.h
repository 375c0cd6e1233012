/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Neighbours who ask for the address of a VIP that this node leads (lb/announce): answered in the
 * kernel, so that they are while the daemon is away.
 */

#include "lib/edge_maps.h"
#include "lib/neighbour.h"

static __always_inline bool leads(const struct addr *addr)
{
	struct edge_vip_key key = {.addr = *addr};
	const struct edge_vip *vip = bpf_map_lookup_elem(&edge_vips, &key);

	return vip && vip->flags & EDGE_VIP_LED;
}

/* These return the reason by which an answer is in the frame now, or none. Global, for the stack's
 * sake. */
__noinline int answer_who_has(struct __sk_buff *skb, const struct edge_link *link)
{
	struct packet p = {.l3 = sizeof(struct ethernet)};
	struct arp arp;

	if (!link || read_arp(skb, &p, &arp) || arp.operation != bpf_htons(ARP_REQUEST) ||
	    !leads(&p.dst) || reply_arp(skb, &arp, link->mac))
		return REASON_NONE;
	return REASON_ANSWERED_ARP;
}

/* Who asks whether the address is in use (RFC 4862 5.4, from ::) hears nothing: it may not have it.
 */
__noinline int answer_solicitation(struct __sk_buff *skb, const struct edge_link *link)
{
	const __u32 length = __builtin_offsetof(struct neighbour, option);
	struct link_ends ends;
	struct neighbour nd;
	struct addr to;
	__u8 front[2]; /* next header, hop limit */

	if (!link || bpf_skb_load_bytes(skb, sizeof(struct ethernet) + 6, front, 2) ||
	    bpf_skb_load_bytes(skb, sizeof(struct ethernet) + 8, &to, sizeof(to)) ||
	    bpf_skb_load_bytes(skb, sizeof(struct ethernet) + sizeof(struct ipv6), &nd, length) ||
	    bpf_skb_load_bytes(skb, 6, ends.to, 6))
		return REASON_NONE;
	if (front[0] != PROTO_ICMPV6 || front[1] != ND_HOP_LIMIT ||
	    nd.type != ICMPV6_NEIGHBOUR_SOLICIT || no_addr(&to))
		return REASON_NONE;
	memcpy(ends.from, link->mac, 6);
	if (!leads((const struct addr *)nd.target) ||
	    advertise(skb, &ends, &to, (const struct addr *)nd.target))
		return REASON_NONE;
	return REASON_ANSWERED_ND;
}

static __always_inline int answer_neighbours(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	const struct edge_link *link = bpf_map_lookup_elem(&edge_links, &ifindex);

	if (!link)
		return REASON_NONE;
	if (skb->protocol == bpf_htons(ETHERTYPE_ARP))
		return answer_who_has(skb, link);
	return answer_solicitation(skb, link);
}

/* Whether a frame that is for no VIP may be such a question. */
static __always_inline bool may_ask(struct __sk_buff *skb)
{
	const struct ipv6 *ip = (void *)(long)skb->data + sizeof(struct ethernet);

	if (skb->protocol == bpf_htons(ETHERTYPE_ARP))
		return true;
	return skb->protocol == bpf_htons(ETHERTYPE_IPV6) &&
	       (void *)(ip + 1) <= (void *)(long)skb->data_end && ip->next == PROTO_ICMPV6;
}
