/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What is known of a packet while it walks through the steps. Each step returns CONTINUE or the
 * action that ends the walk; on the way out it notes the reason, which the program counts once.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "headers/packet.h"
#include "shared/reason.h"
#include "shared/rows.h"

enum {
	CONTINUE = -2, /* no tcx action has this value */
};

enum fragment {
	FRAGMENT_NONE = 0,
	FRAGMENT_FIRST = 1, /* has ports */
	FRAGMENT_LATER = 2, /* has none */
};

struct packet {
	struct addr src;
	struct addr dst;
	__be16 sport; /* ICMP echo: the id in both; 0 where the protocol has none */
	__be16 dport;
	__u32 len; /* of the frame as met, bytes */
	__u32 vni; /* network of the sender; on the host's side of a link that of the task */
	__u32 rule; /* that decided, 0: none */
	__u32 l3_len; /* of the IP packet by its own header, bytes */
	__u16 src_identity; /* enum identity */
	__u16 dst_identity;
	__u16 l3; /* offset of the IP header from the start of the frame, bytes */
	__u16 l4; /* offset of what follows IP and its options */
	__u16 l4_len; /* of the TCP, UDP or ICMP header, bytes; 0: not known */
	__be16 ethertype;
	__u8 proto; /* enum ip_proto, ICMPv6 as it is */
	__u8 fragment; /* enum fragment */
	__u8 icmp; /* type, of ICMP and ICMPv6 */
	__u8 tcp; /* flags */
	__u8 tos; /* IPv4 type of service, IPv6 traffic class */
	__u8 ttl; /* IPv6: hop limit */
	__u8 dont_fragment;
	__u8 audited; /* a rule in audit mode would drop it */
	__u8 reason; /* why the walk ended */
	__u8 translated; /* the task sent it to a VIP */
	__u8 pad[2];
};

/* Ends the walk. */
static __always_inline int end(struct packet *p, enum reason reason, int action)
{
	p->reason = reason;
	return action;
}

static __always_inline int drop(struct packet *p, enum reason reason)
{
	return end(p, reason, TCX_DROP);
}

static __always_inline bool is_ipv4(const struct packet *p)
{
	return p->ethertype == bpf_htons(ETHERTYPE_IPV4);
}

static __always_inline bool is_icmp(const struct packet *p)
{
	return p->proto == (is_ipv4(p) ? PROTO_ICMP : PROTO_ICMPV6);
}

/* Words of an address, network order. */
static __always_inline __be32 word(const struct addr *a, int i)
{
	return ((const __be32 *)a->bytes)[i];
}

static __always_inline bool same_addr(const struct addr *a, const struct addr *b)
{
	return word(a, 3) == word(b, 3) && word(a, 2) == word(b, 2) && word(a, 1) == word(b, 1) &&
	       word(a, 0) == word(b, 0);
}

static __always_inline bool no_addr(const struct addr *a)
{
	return !(word(a, 0) | word(a, 1) | word(a, 2) | word(a, 3));
}

/*
 * Loads and stores at addresses that need not be aligned, which Linux lets programs do wherever the
 * machine does.
 */
static __always_inline __u16 get16(const void *at)
{
	return *(const __u16 *)at;
}

static __always_inline __u32 get32(const void *at)
{
	return *(const __u32 *)at;
}

static __always_inline void put16(void *at, __u16 value)
{
	*(__u16 *)at = value;
}

static __always_inline void put32(void *at, __u32 value)
{
	*(__u32 *)at = value;
}

static __always_inline void copy_addr(struct addr *to, const void *from)
{
	__be32 *words = (__be32 *)to->bytes;

	words[0] = get32(from);
	words[1] = get32(from + 4);
	words[2] = get32(from + 8);
	words[3] = get32(from + 12);
}

/* Whether an address is an IPv4 one, in 128 bit. */
static __always_inline bool is_mapped(const struct addr *a)
{
	return !word(a, 0) && !word(a, 1) && word(a, 2) == bpf_htonl(0xffff);
}

static __always_inline void set_addr4(struct addr *a, __be32 addr)
{
	__be32 *words = (__be32 *)a->bytes;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}
