/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * ICMP errors about packets that were translated: who hears one knows of the address that it spoke
 * to, and of no other.
 */

#include "lib/flow.h"
#include "lib/packet.h"
#include "lib/rewrite.h"

/* Offset of the address in an IP header at an offset: its source, or its destination. */
static __always_inline __u32 addr_at(const struct packet *p, __u32 at, bool source)
{
	if (is_ipv4(p))
		return at + (source ? __builtin_offsetof(struct ipv4, src)
				    : __builtin_offsetof(struct ipv4, dst));
	return at + (source ? __builtin_offsetof(struct ipv6, src)
			    : __builtin_offsetof(struct ipv6, dst));
}

/* The quoted header's own sum makes up for its address, so ICMP's is not changed by it. */
static __always_inline int translate_addrs4(struct __sk_buff *skb, const struct packet *p,
					    __u32 quote, const struct addr *was,
					    const struct addr *is, bool out, bool outer)
{
	const __u32 sum = __builtin_offsetof(struct ipv4, checksum);
	__u32 old = word(was, 3), new = word(is, 3);

	if (outer && (bpf_l3_csum_replace(skb, p->l3 + sum, old, new, 4) ||
		      bpf_skb_store_bytes(skb, addr_at(p, p->l3, out), is->bytes + 12, 4, 0)))
		return -1;
	if (bpf_l3_csum_replace(skb, quote + sum, old, new, 4))
		return -1;
	return bpf_skb_store_bytes(skb, addr_at(p, quote, !out), is->bytes + 12, 4, 0);
}

static __always_inline int translate_addrs6(struct __sk_buff *skb, const struct packet *p,
					    __u32 quote, const struct addr *was,
					    const struct addr *is, bool out, bool outer)
{
	__u32 diff = bpf_csum_diff((__be32 *)was, 16, (__be32 *)is, 16, 0);
	__u32 sum_at = p->l4 + __builtin_offsetof(struct icmp, checksum);

	if (outer && (bpf_l4_csum_replace(skb, sum_at, 0, diff, BPF_F_PSEUDO_HDR) ||
		      bpf_skb_store_bytes(skb, addr_at(p, p->l3, out), is, 16, 0)))
		return -1;
	if (bpf_l4_csum_replace(skb, sum_at, 0, diff, 0))
		return -1;
	return bpf_skb_store_bytes(skb, addr_at(p, quote, !out), is, 16, 0);
}

/*
 * An ICMP error about an answer, sent to from, becomes one sent to to; with out, one about what was
 * sent to from, and by it, becomes one about to, and by it: the packet, and what it quotes. Without
 * outer another sends it, or hears it, and that stays. Transport sums that are quoted stay: nobody
 * reads them.
 */
static __always_inline int translate_news(struct __sk_buff *skb, const struct packet *p,
					  const struct peer *from, const struct peer *to, bool out,
					  bool outer)
{
	__u32 quote = p->l4 + sizeof(struct icmp), header = sizeof(struct ipv6);

	if (is_ipv4(p)) {
		__u8 first;

		if (bpf_skb_load_bytes(skb, quote, &first, 1) ||
		    translate_addrs4(skb, p, quote, &from->addr, &to->addr, out, outer))
			return -1;
		header = (first & 0xf) * 4;
	} else if (translate_addrs6(skb, p, quote, &from->addr, &to->addr, out, outer)) {
		return -1;
	}
	if (bpf_l4_csum_replace(skb, p->l4 + __builtin_offsetof(struct icmp, checksum), from->port,
				to->port, 2))
		return -1;
	return bpf_skb_store_bytes(skb, quote + header + (out ? 2 : 0), &to->port, 2, 0);
}
