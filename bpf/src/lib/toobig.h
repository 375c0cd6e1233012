/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * A packet larger than the path to its destination. A tunnel has no router in it that would say so:
 * the sender's own node tells it, by ICMP (RFC 1191) or ICMPv6 (RFC 8201).
 */

#include "lib/encap.h"
#include "lib/flow.h"
#include "lib/neighbour.h"

enum {
	/* Bytes of the packet that are quoted: more than the longest IPv4 header and its 8 bytes
	 * (RFC 792), room for a few IPv6 extension headers. */
	QUOTE = 128,
};

/* Size of the largest IP packet that p becomes: of one segment, where it is to be segmented. */
static __always_inline __u32 largest(struct __sk_buff *skb, const struct packet *p)
{
	if (skb->gso_size)
		return p->l4 - p->l3 + p->l4_len + skb->gso_size;
	return skb->len - p->l3;
}

/* RFC 1071 over the QUOTE bytes behind at and what is in seed. */
static __always_inline __s64 sum_quote(struct __sk_buff *skb, __u32 at, __u32 seed)
{
	struct cursor c = cursor_at(skb, at, QUOTE);
	void *quote = take(&c, QUOTE);

	return quote ? bpf_csum_diff(NULL, 0, quote, QUOTE, seed) : -1;
}

/* Who is told, and by whom. */
struct told {
	__u8 to_mac[6];
	__u8 from_mac[6];
	struct addr to;
	struct addr from;
};

struct icmp_frame {
	struct ethernet eth;
	struct ipv4 ip;
	struct icmp icmp;
} WIRE;

/* Makes the packet the ICMP error about itself. Global: too large for the caller's stack. */
__noinline int tell_ipv4(struct __sk_buff *skb, const struct told *t, __u32 mtu)
{
	struct icmp_frame f = {
		.eth.type = bpf_htons(ETHERTYPE_IPV4),
		.ip =
			{
				.version_ihl = 0x45,
				.total_len = bpf_htons(sizeof(struct ipv4) + sizeof(struct icmp) +
						       QUOTE),
				.ttl = TUNNEL_TTL,
				.proto = PROTO_ICMP,
			},
		.icmp.type = ICMP_UNREACHABLE,
		.icmp.code = ICMP_FRAGMENTATION_NEEDED,
	};
	__be32 head[2];
	__s64 sum;

	if (!t)
		return -1;
	memcpy(f.eth.dst, t->to_mac, 12);
	f.ip.src = word(&t->from, 3);
	f.ip.dst = word(&t->to, 3);
	f.ip.checksum = ipv4_checksum(&f.ip);
	f.icmp.rest = bpf_htonl(mtu & 0xffff);
	memcpy(head, &f.icmp, sizeof(head));
	sum = bpf_csum_diff(NULL, 0, head, sizeof(head), 0);
	if (bpf_skb_change_tail(skb, sizeof(struct ethernet) + QUOTE, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(f) - sizeof(f.eth), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	sum = sum_quote(skb, sizeof(f), sum);
	if (sum < 0)
		return -1;
	f.icmp.checksum = fold(sum);
	return bpf_skb_store_bytes(skb, 0, &f, sizeof(f), BPF_F_INVALIDATE_HASH);
}

struct icmpv6_frame {
	struct ethernet eth;
	struct ipv6 ip;
	struct icmp icmp;
} WIRE;

/* The same for IPv6. */
__noinline int tell_ipv6(struct __sk_buff *skb, const struct told *t, __u32 mtu)
{
	struct icmpv6_frame f = {
		.eth.type = bpf_htons(ETHERTYPE_IPV6),
		.ip =
			{
				.version_class_flow = bpf_htonl(0x60000000),
				.payload_len = bpf_htons(sizeof(struct icmp) + QUOTE),
				.next = PROTO_ICMPV6,
				.hop_limit = ND_HOP_LIMIT,
			},
		.icmp.type = ICMPV6_TOO_BIG,
	};
	__be32 words[10];
	__s64 sum;

	if (!t)
		return -1;
	memcpy(f.eth.dst, t->to_mac, 12);
	memcpy(f.ip.src, &t->from, 16);
	memcpy(f.ip.dst, &t->to, 16);
	f.icmp.rest = bpf_htonl(mtu);
	memcpy(words, f.ip.src, 32); /* what is summed has to be aligned */
	memcpy(words + 8, &f.icmp, 8);
	sum = bpf_csum_diff(NULL, 0, words, sizeof(words),
			    bpf_htonl(sizeof(struct icmp) + QUOTE + PROTO_ICMPV6));
	if (bpf_skb_change_tail(skb, sizeof(struct ethernet) + QUOTE, 0) ||
	    bpf_skb_adjust_room(skb, sizeof(f) - sizeof(f.eth), BPF_ADJ_ROOM_MAC, 0))
		return -1;
	sum = sum_quote(skb, sizeof(f), sum);
	if (sum < 0)
		return -1;
	f.icmp.checksum = fold(sum);
	return bpf_skb_store_bytes(skb, 0, &f, sizeof(f), BPF_F_INVALIDATE_HASH);
}

/* Never about an ICMP error (RFC 1122 3.2.2) nor about a later fragment. */
static __always_inline bool may_tell(const struct packet *p)
{
	return p->fragment != FRAGMENT_LATER && !(is_icmp(p) && is_icmp_error(p));
}

/*
 * A task is told by its gateway, 169.254.1.1 or fe80::1; the node by whom it sends to, so that no
 * filter of sources takes it for a stranger. Global, for the stack's sake.
 */
__noinline int tell_task(struct __sk_buff *skb, const struct packet *p, const struct workload *w,
			 __u32 mtu)
{
	struct told t = {};

	if (!w || !p)
		return -1;
	memcpy(t.to_mac, w->mac, 6);
	gateway(t.from_mac);
	t.to = is_ipv4(p) ? w->addr4 : w->addr6;
	if (w->vni == VNI_NODES) {
		t.from = p->dst;
	} else if (is_ipv4(p)) {
		set_addr4(&t.from, bpf_htonl(0xa9fe0101));
	} else {
		t.from.bytes[0] = 0xfe;
		t.from.bytes[1] = 0x80;
		t.from.bytes[15] = 0x01;
	}
	return is_ipv4(p) ? tell_ipv4(skb, &t, mtu) : tell_ipv6(skb, &t, mtu);
}

/* Whether a task will be told that its packet is too large for the way. */
static __always_inline bool is_too_big(struct __sk_buff *skb, const struct packet *p,
				       const struct block *to)
{
	return p->dont_fragment && largest(skb, p) > to->mtu;
}

/* An IPv4 packet that may be fragmented goes to the kernel's device, which does it. */
static __always_inline int check_size(struct __sk_buff *skb, struct packet *p,
				      const struct workload *w, const struct block *to)
{
	__u32 mtu = to->mtu;

	if (largest(skb, p) <= mtu)
		return CONTINUE;
	if (!p->dont_fragment)
		return encap_slow(skb, p, to);
	if (!may_tell(p) || skb->len < sizeof(struct ethernet) + QUOTE || tell_task(skb, p, w, mtu))
		return drop(p, REASON_TOO_BIG);
	if (w->vni == VNI_NODES)
		return send_in(skb, p, skb->ifindex, REASON_ANSWERED_TOO_BIG);
	return send_back(skb, p, REASON_ANSWERED_TOO_BIG);
}
