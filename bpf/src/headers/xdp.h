/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What the edge, and what answers its clients, has beside headers/kernel.h and headers/helpers.h.
 * Linux 6.1 has all of it.
 */

#include "headers/kernel.h"

/* A frame before the kernel made a packet of it. data and data_end are addresses in 32 bits. */
struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

_Static_assert(sizeof(struct xdp_md) == 24, "xdp_md");

enum xdp_action {
	XDP_DROP = 1,
	XDP_PASS = 2, /* on to the kernel's stack, tcx programs first */
	XDP_TX = 3, /* out where it came in */
	XDP_REDIRECT = 4,
};

/* Where the kernel would route a packet, and to which MAC. */
struct bpf_fib_lookup {
	__u8 family;
	__u8 l4_protocol;
	__be16 sport;
	__be16 dport;
	__u16 tot_len; /* 0: the MTU is not asked for */
	__u32 ifindex; /* in: of whose routes; out: where it leaves */
	__u32 tos;
	__be32 src[4]; /* IPv4: the first */
	__be32 dst[4];
	__be16 vlan_proto;
	__be16 vlan_tci;
	__u8 smac[6];
	__u8 dmac[6];
};

_Static_assert(sizeof(struct bpf_fib_lookup) == 64, "bpf_fib_lookup");

enum {
	BPF_FIB_LOOKUP_OUTPUT = 1 << 1, /* as for what the node itself sends */
	BPF_FIB_LKUP_RET_SUCCESS = 0,
	BPF_FIB_LKUP_RET_NO_NEIGH = 7, /* there is a route, whose neighbour has to be asked for */
};

/* Makes every pointer into the frame invalid. */
static long (*const bpf_xdp_adjust_head)(struct xdp_md *ctx, int delta) = (void *)44;
static long (*const bpf_fib_lookup)(void *ctx, struct bpf_fib_lookup *params, int size,
				    __u32 flags) = (void *)69; /* above 0: why not */
static void (*const bpf_set_hash_invalid)(struct __sk_buff *skb) = (void *)41;
