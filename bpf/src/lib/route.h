/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Where an address lives. Every node holds whole blocks of a network, all of one length, so one
 * exact look-up of the masked address finds the node, however many tasks there are.
 */

#include "lib/config.h"
#include "lib/flow.h"
#include "lib/maps.h"
#include "lib/neighbour.h"

/* The first bits of a 32-bit word, in network order. */
static __always_inline __be32 mask_of(int bits)
{
	if (bits <= 0)
		return 0;
	return bits >= 32 ? ~0U : bpf_htonl(~0U << (32 - bits));
}

/* The block of length bits, of the 128-bit form, that an address is of. */
static __always_inline const struct block *block_of(__u32 vni, const struct addr *a, int bits)
{
	struct block_key key = {.vni = vni};
	__be32 *words = (__be32 *)key.addr.bytes;

	for (int i = 0; i < 4; i++)
		words[i] = word(a, i) & mask_of(bits - 32 * i);
	return bpf_map_lookup_elem(&blocks, &key);
}

static __always_inline const struct block *find_block(const struct packet *p,
						      const struct workload *w)
{
	struct block_key key = {.vni = w->vni, .addr = p->dst};

	if (!is_ipv4(p))
		return block_of(w->vni, &p->dst, w->block6);
	((__be32 *)key.addr.bytes)[3] &= mask_of(w->block4);
	return bpf_map_lookup_elem(&blocks, &key);
}

/* The node whose processes have the address. */
static __always_inline const struct block *find_node(const struct addr *a)
{
	struct block_key key = {.vni = VNI_NODES, .addr = *a};

	return bpf_map_lookup_elem(&blocks, &key);
}

/* The network that the address is of: they never overlap. NULL: none, it is of the world. */
static __always_inline const struct prefix *find_network(const struct addr *a)
{
	struct prefix_key key = {.len = 128, .addr = *a};

	return bpf_map_lookup_elem(&prefixes, &key);
}

/* An address that no packet of a task has a reason to carry. */
static __always_inline bool is_nowhere(const struct packet *p, const struct addr *a)
{
	if (is_ipv4(p)) { /* 0/8 and 127/8 */
		__be32 net = word(a, 3) & bpf_htonl(0xff000000);

		return net == 0 || net == bpf_htonl(0x7f000000);
	}
	return !(word(a, 0) | word(a, 1) | word(a, 2)) && /* :: and ::1 */
	       (word(a, 3) & bpf_htonl(0xfffffffe)) == 0;
}

static __always_inline int check_destination(struct packet *p)
{
	if (is_multicast(p, &p->dst))
		return drop(p, REASON_MULTICAST);
	return is_nowhere(p, &p->dst) ? drop(p, REASON_MALFORMED) : CONTINUE;
}

/*
 * No node holds the address: it is of a network, or of a node's processes (CONTINUE), or of the
 * world. What leaves for the node's stack may be sent on with the node's own address, so it must
 * not pass for a frame of the node's own tunnel.
 */
static __always_inline int leave(struct __sk_buff *skb, struct packet *p)
{
	const struct prefix *net = find_network(&p->dst);

	if (net && net->vni != VNI_NODES)
		return drop(p, net->vni == p->vni ? REASON_NO_BLOCK : REASON_OTHER_NETWORK);
	if (p->proto == PROTO_UDP && is_tunnel_port(p->dport))
		return drop(p, REASON_SPOOFED_TUNNEL);
	remember(p, skb->ifindex);
	return net ? CONTINUE : end(p, REASON_TO_HOST, TCX_NEXT);
}
