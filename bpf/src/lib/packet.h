/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What is known of a packet while it walks through the steps. Each step returns CONTINUE or the
 * action that ends the walk; on the way out it notes the reason, which the program counts once.
 */

#include "headers/kernel.h"
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
	__u32 vni; /* network of the sender */
	__u32 rule; /* that decided, 0: none */
	__u32 ifindex; /* where it was met */
	__u16 src_identity; /* enum identity */
	__u16 dst_identity;
	__u16 l3; /* offset of the IP header from the start of the frame */
	__u16 l4; /* offset of what follows IP and its options */
	__u16 l3_len; /* of the IP packet by its own header; 0: larger than a header can say */
	__be16 ethertype;
	__u8 proto; /* enum ip_proto, ICMPv6 as it is */
	__u8 fragment;
	__u8 icmp; /* type, of ICMP and ICMPv6 */
	__u8 tcp; /* flags */
	__u8 tos;
	__u8 reason;
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
	return p->ethertype == bpf_htons(0x0800);
}
