/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * A task sees one neighbour, its gateway: every question who has an address gets the gateway's MAC.
 * All that keeps a link going (ARP, neighbour discovery, router and group messages) ends in this
 * step, so no task can tell another's stack who its gateway is.
 */

#include "lib/deliver.h"
#include "lib/spoof.h"

struct arp_frame {
	struct ethernet eth;
	struct arp arp;
} WIRE;

/* Makes the question an answer: who has mac. */
static __always_inline int reply_arp(struct __sk_buff *skb, const struct arp *asked,
				     const __u8 *mac)
{
	struct arp_frame f = {
		.eth.type = bpf_htons(ETHERTYPE_ARP),
		.arp =
			{
				.hardware = bpf_htons(ARP_ETHERNET),
				.protocol = bpf_htons(ETHERTYPE_IPV4),
				.hardware_len = 6,
				.protocol_len = 4,
				.operation = bpf_htons(ARP_REPLY),
				.sender = asked->target,
				.target = asked->sender,
			},
	};

	memcpy(f.eth.dst, asked->sender_mac, 6);
	memcpy(f.arp.target_mac, asked->sender_mac, 6);
	memcpy(f.eth.src, mac, 6);
	memcpy(f.arp.sender_mac, mac, 6);
	return bpf_skb_store_bytes(skb, 0, &f, sizeof(f), 0);
}

static __always_inline int answer_arp(struct __sk_buff *skb, struct packet *p,
				      const struct arp *asked)
{
	__u8 mac[6];

	gateway(mac);
	if (reply_arp(skb, asked, mac))
		return drop(p, REASON_REDIRECT_FAILED);
	return send_back(skb, p, REASON_ANSWERED_ARP);
}

/* Reads an ARP packet of IPv4 and Ethernet; its two addresses are p's from then on. */
static __always_inline int read_arp(struct __sk_buff *skb, struct packet *p, struct arp *arp)
{
	if (bpf_skb_load_bytes(skb, p->l3, arp, sizeof(*arp)) ||
	    arp->hardware != bpf_htons(ARP_ETHERNET) ||
	    arp->protocol != bpf_htons(ETHERTYPE_IPV4) || arp->hardware_len != 6 ||
	    arp->protocol_len != 4)
		return -1;
	set_addr4(&p->src, arp->sender);
	set_addr4(&p->dst, arp->target);
	return 0;
}

/* Requests are answered, replies are for the node's stack, which asked. */
static __always_inline int handle_arp(struct __sk_buff *skb, struct packet *p,
				      const struct workload *w)
{
	struct arp arp;

	if (read_arp(skb, p, &arp))
		return drop(p, REASON_MALFORMED);
	if (!same_mac(arp.sender_mac, w->mac))
		return drop(p, REASON_SPOOFED_MAC);
	/* Whether its own address is in use (RFC 5227): silence says no. */
	if (same_addr(&p->dst, &w->addr4))
		return drop(p, REASON_CHATTER);
	if (no_addr(&w->addr4) || !same_addr(&p->src, &w->addr4))
		return drop(p, REASON_SPOOFED_ADDRESS);
	if (arp.operation == bpf_htons(ARP_REPLY))
		return end(p, REASON_TO_HOST, TCX_NEXT);
	if (arp.operation != bpf_htons(ARP_REQUEST))
		return drop(p, REASON_MALFORMED);
	return answer_arp(skb, p, &arp);
}

struct neighbour_frame {
	struct ethernet eth;
	struct ipv6 ip;
	struct neighbour nd;
} WIRE;

/* RFC 1071 over what was summed by 32-bit words. */
static __always_inline __be16 fold(__s64 sum)
{
	__u32 wide = (__u32)sum;

	wide = (wide & 0xffff) + (wide >> 16);
	wide = (wide & 0xffff) + (wide >> 16);
	return ~wide;
}

/* MACs of an answer. */
struct link_ends {
	__u8 to[6];
	__u8 from[6];
};

/*
 * Makes the solicitation an advertisement of asked, in place.
 * Global: its frame would not fit the caller's stack.
 */
__noinline int advertise(struct __sk_buff *skb, const struct link_ends *ends, const struct addr *to,
			 const struct addr *asked)
{
	/* The kernel sums what is aligned: both addresses, and the message behind them. */
	struct {
		__u8 pad[2];
		struct neighbour_frame f;
	} __attribute__((packed, aligned(8))) out = {
		.f.eth.type = bpf_htons(ETHERTYPE_IPV6),
		.f.ip =
			{
				.version_class_flow = bpf_htonl(0x60000000),
				.payload_len = bpf_htons(sizeof(struct neighbour)),
				.next = PROTO_ICMPV6,
				.hop_limit = ND_HOP_LIMIT,
			},
		.f.nd =
			{
				.type = ICMPV6_NEIGHBOUR_ADVERT,
				.flags = bpf_htonl(ND_ROUTER_SOLICITED_OVERRIDE),
				.option = ND_TARGET_MAC,
				.option_len = 1,
			},
	};
	struct neighbour_frame *f = &out.f;
	__s64 sum;

	if (!ends || !to || !asked || bpf_skb_change_tail(skb, sizeof(*f), 0))
		return -1;
	memcpy(f->eth.dst, ends->to, 6);
	memcpy(f->eth.src, ends->from, 6);
	memcpy(f->ip.src, asked, 16);
	memcpy(f->ip.dst, to, 16);
	memcpy(f->nd.target, asked, 16);
	memcpy(f->nd.mac, ends->from, 6);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)f->ip.src, 2 * 16 + sizeof(f->nd),
			    bpf_htonl(sizeof(f->nd) + PROTO_ICMPV6));
	f->nd.checksum = fold(sum);
	return bpf_skb_store_bytes(skb, 0, f, sizeof(*f), 0);
}

static __always_inline bool is_link_local(const struct addr *a)
{
	return (word(a, 0) & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

static __always_inline bool is_multicast(const struct packet *p, const struct addr *a)
{
	if (is_ipv4(p)) /* and the limited broadcast, beyond it nothing was ever given out */
		return (word(a, 3) & bpf_htonl(0xe0000000)) == bpf_htonl(0xe0000000);
	return a->bytes[0] == 0xff;
}

static __always_inline int read_solicitation(struct __sk_buff *skb, const struct packet *p,
					     struct addr *asked)
{
	struct neighbour nd;

	/* Without the option, which only answers need. */
	if (p->ttl != ND_HOP_LIMIT ||
	    bpf_skb_load_bytes(skb, p->l4, &nd, __builtin_offsetof(struct neighbour, option)))
		return -1;
	memcpy(asked, nd.target, sizeof(*asked));
	return 0;
}

static __always_inline int handle_solicitation(struct __sk_buff *skb, struct packet *p,
					       const struct workload *w)
{
	struct link_ends ends;
	struct addr asked;

	if (read_solicitation(skb, p, &asked))
		return drop(p, REASON_MALFORMED);
	/* Whether its own address is in use (RFC 4862 5.4): silence says no. */
	if (no_addr(&p->src) || same_addr(&asked, &w->addr6))
		return drop(p, REASON_CHATTER);
	if (!is_link_local(&p->src) && !same_addr(&p->src, &w->addr6))
		return drop(p, REASON_SPOOFED_ADDRESS);
	memcpy(ends.to, w->mac, 6);
	gateway(ends.from);
	if (is_multicast(p, &asked) || advertise(skb, &ends, &p->src, &asked))
		return drop(p, REASON_MALFORMED);
	return send_back(skb, p, REASON_ANSWERED_ND);
}

/* The node's stack asked for the task's address; anything else advertised is of no use. */
static __always_inline int handle_advertisement(struct __sk_buff *skb, struct packet *p,
						const struct workload *w)
{
	struct neighbour nd;
	struct addr told;

	if (p->ttl != ND_HOP_LIMIT ||
	    bpf_skb_load_bytes(skb, p->l4, &nd, __builtin_offsetof(struct neighbour, option)))
		return drop(p, REASON_MALFORMED);
	memcpy(&told, nd.target, sizeof(told));
	if (is_multicast(p, &p->dst) || is_link_local(&told))
		return drop(p, REASON_CHATTER);
	if (!same_addr(&told, &w->addr6))
		return drop(p, REASON_SPOOFED_ADDRESS);
	return end(p, REASON_TO_HOST, TCX_NEXT);
}

/* Neighbour discovery and group membership: never forwarded to anyone. */
static __always_inline bool is_link_talk(const struct packet *p)
{
	if (is_ipv4(p))
		return p->proto == PROTO_IGMP;
	if (p->proto != PROTO_ICMPV6 || p->fragment == FRAGMENT_LATER)
		return false;
	return (p->icmp >= ICMPV6_MLD_QUERY && p->icmp <= ICMPV6_REDIRECT) ||
	       p->icmp == ICMPV6_MLD2_REPORT;
}

static __always_inline int answer_neighbour(struct __sk_buff *skb, struct packet *p,
					    const struct workload *w)
{
	if (p->ethertype == bpf_htons(ETHERTYPE_ARP))
		return handle_arp(skb, p, w);
	if (!is_link_talk(p))
		return CONTINUE;
	if (is_ipv4(p))
		return drop(p, REASON_CHATTER);
	if (p->icmp == ICMPV6_NEIGHBOUR_SOLICIT)
		return handle_solicitation(skb, p, w);
	if (p->icmp == ICMPV6_NEIGHBOUR_ADVERT)
		return handle_advertisement(skb, p, w);
	return drop(p, REASON_CHATTER);
}
