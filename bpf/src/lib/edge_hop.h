/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * The next hop towards a node: what the kernel's routes and neighbours said a moment ago. To ask
 * them takes longer than all the rest, so each CPU remembers the answer for a moment. A
 * route or a neighbour that changes is followed after that, whether the daemon lives or not.
 *
 * What XDP sends uses no neighbour as far as the kernel knows, and one that nothing uses is never
 * found dead. So now and then a packet goes the kernel's way, which asks the neighbour whether it
 * is there; where it is not, the kernel's tables say so, and nothing is sent to it any more.
 */

#include "headers/xdp.h"
#include "lib/config.h"
#include "lib/edge_maps.h"
#include "lib/frame.h"

enum {
	EDGE_HOP_TICKS = 25, /* 25 to 250 ms, by the kernel's build: 100 ms on Debian's */
	EDGE_ASK_TICKS = 1000,
};

/* Fills h in by the kernel's tables. Global: to be verified once, and for its stack. */
__noinline int edge_look_up(struct xdp_md *ctx, const struct addr *node, struct edge_hop *h)
{
	struct bpf_fib_lookup way = {};

	if (!node || !h)
		return -1;
	way.l4_protocol = PROTO_UDP;
	way.ifindex = ctx->ingress_ifindex;
	if (underlay6) {
		way.family = AF_INET6;
		own_addr6(way.src);
		memcpy(way.dst, node, sizeof(*node));
	} else {
		way.family = AF_INET;
		way.src[0] = node_addr4;
		way.dst[0] = word(node, 3);
	}
	if (bpf_fib_lookup(ctx, &way, sizeof(way), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return -1;
	h->node = *node;
	h->ingress = ctx->ingress_ifindex;
	h->egress = way.ifindex;
	memcpy(h->macs, way.dmac, 6);
	memcpy(h->macs + 6, way.smac, 6);
	return 0;
}

static __always_inline bool same_node(const struct addr *a, const struct addr *b)
{
	return underlay6 ? same_addr(a, b) : word(a, 3) == word(b, 3);
}

static __always_inline __u32 hash_node(const struct addr *node)
{
	__u32 hash = bpf_ntohl(word(node, 3));

	if (underlay6)
		hash ^= bpf_ntohl(word(node, 1) ^ word(node, 2));
	_Static_assert(EDGE_HOPS == 1 << (32 - 22), "index");
	return hash * 0x9e3779b1U >> 22;
}

/* NULL: the kernel has to find the way. */
static __always_inline const struct edge_hop *edge_hop_to(struct xdp_md *ctx,
							  const struct addr *node)
{
	__u32 index = hash_node(node);
	struct edge_hop *h = bpf_map_lookup_elem(&edge_hops, &index);
	__u64 now = bpf_jiffies64();
	bool known;

	if (!h)
		return NULL;
	known = same_node(&h->node, node) && h->ingress == ctx->ingress_ifindex;
	if (known && now < h->until)
		return h;
	h->until = 0;
	if (edge_look_up(ctx, node, h))
		return NULL;
	h->until = now + EDGE_HOP_TICKS;
	if (known && now < h->ask)
		return h;
	h->ask = now + EDGE_ASK_TICKS;
	return known ? NULL : h;
}
