/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Towards another node: the packet gets the headers of lib/frame.h. Built here where that works, by
 * the kernel's device where it does not.
 */

#include "lib/frame.h"
#include "lib/maps.h"

static __always_inline void tunnel_ends(struct bpf_tunnel_key *key, const struct addr *vtep)
{
	if (underlay6) {
		own_addr6(key->local_ipv6);
		memcpy(key->remote_ipv6, vtep, 16);
	} else {
		key->local_ipv4 = bpf_ntohl(node_addr4);
		key->remote_ipv4 = bpf_ntohl(word(vtep, 3));
	}
}

/* By the kernel's device. Global, as encap: their headers would not fit the caller's stack. */
__noinline int encap_slow(struct __sk_buff *skb, struct packet *p, const struct block *to)
{
	struct bpf_tunnel_key key = {.tunnel_ttl = TUNNEL_TTL};
	__u32 device;
	__u64 flags = BPF_F_ZERO_CSUM_TX | (underlay6 ? BPF_F_TUNINFO_IPV6 : 0);
	__u32 policy;
	__u8 macs[12];

	if (!p || !to)
		return TCX_DROP;
	key.tunnel_id = p->vni;
	tunnel_ends(&key, &to->vtep);
	policy = p->src_identity;
	inner_macs(p, macs, macs + 6);
	if (to->flags & BLOCK_PLAIN) {
		struct addr vtep = to->vtep; /* Linux 6.1 takes no key from an argument */
		const struct vtep *v = bpf_map_lookup_elem(&vteps, &vtep);

		if (!v)
			return drop(p, REASON_NO_BLOCK); /* it goes at this moment */
		policy = IDENTITY_NONE; /* so the device writes no policy */
		memcpy(macs, v->as.mac, 6);
		memcpy(macs + 6, v->own_mac, 6);
	}
	if (p->dont_fragment)
		flags |= BPF_F_DONT_FRAGMENT;
	device = is_second(to) ? tunnel_ifindex2 : tunnel_ifindex;
	if (!device || bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ||
	    bpf_skb_set_tunnel_opt(skb, &policy, sizeof(policy)) ||
	    bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return drop(p, REASON_ENCAP_FAILED);
	return end(p, p->audited ? REASON_AUDITED : REASON_ENCAPSULATED, bpf_redirect(device, 0));
}

/* To the neighbour that a node in the underlay's own network is, or to the next hop that routes
 * say. */
static __always_inline int send_out(__be32 vtep)
{
	struct bpf_redir_neigh hop = {.nh_family = AF_INET, .ipv4_nh = vtep};

	if (!underlay_mask || (vtep ^ node_addr4) & underlay_mask)
		return bpf_redirect_neigh(underlay_ifindex, NULL, 0, 0);
	return bpf_redirect_neigh(underlay_ifindex, &hop, sizeof(hop), 0);
}

static __always_inline bool is_neighbour6(const struct addr *vtep)
{
	__be32 differs = 0;

	for (int i = 0; i < 4; i++)
		differs |=
			(word(vtep, i) ^ constant(&node_addr6, i)) & constant(&underlay_mask6, i);
	return constant(&underlay_mask6, 0) && !differs;
}

static __always_inline int send_out6(const struct addr *vtep)
{
	struct bpf_redir_neigh hop = {.nh_family = AF_INET6};

	if (!is_neighbour6(vtep))
		return bpf_redirect_neigh(underlay_ifindex, NULL, 0, 0);
	memcpy(hop.ipv6_nh, vtep, 16);
	return bpf_redirect_neigh(underlay_ifindex, &hop, sizeof(hop), 0);
}

/* The first size bytes of the frame, to be written; NULL where they are not in one piece. */
static __always_inline void *front(struct __sk_buff *skb, __u32 size)
{
	void *data = (void *)(long)skb->data;

	return data + size > (void *)(long)skb->data_end ? NULL : data;
}

/*
 * What the frame's hash was made of, the inner flow, it is of still: the kernel's own device leaves
 * it, too.
 */
static __always_inline int encap4(struct __sk_buff *skb, struct packet *p, const struct block *to,
				  __u32 hash)
{
	struct tunnel_frame *f;

	/* The kernel refuses a second tunnel inside a task's own; its device does not. */
	if (bpf_skb_adjust_room(skb, TUNNEL_ROOM, BPF_ADJ_ROOM_MAC, TUNNEL_FLAGS))
		return encap_slow(skb, p, to);
	f = front(skb, sizeof(*f));
	if (!f)
		return drop(p, REASON_ENCAP_FAILED);
	tunnel_frame_of(p, to, hash, f);
	return end(p, REASON_ENCAPSULATED, send_out(word(&to->vtep, 3)));
}

static __always_inline int encap6(struct __sk_buff *skb, struct packet *p, const struct block *to,
				  __u32 hash)
{
	struct tunnel_frame6 *f;

	if (bpf_skb_adjust_room(skb, TUNNEL_ROOM6, BPF_ADJ_ROOM_MAC, TUNNEL_FLAGS6))
		return encap_slow(skb, p, to);
	f = front(skb, sizeof(*f));
	if (!f)
		return drop(p, REASON_ENCAP_FAILED);
	tunnel_frame6_of(p, to, hash, f);
	return end(p, REASON_ENCAPSULATED, send_out6(&to->vtep));
}

__noinline int encap(struct __sk_buff *skb, struct packet *p, const struct block *to)
{
	__u32 hash;

	if (!p || !to)
		return TCX_DROP;
	if (is_mapped(&to->vtep) == underlay6) /* a node of the other family can't be reached */
		return drop(p, REASON_ENCAP_FAILED);
	if (slow_encap || to->flags & BLOCK_PLAIN)
		return encap_slow(skb, p, to);
	hash = bpf_get_hash_recalc(skb); /* of the inner flow, so before there is an outer one */
	hash ^= hash >> 16;
	return underlay6 ? encap6(skb, p, to, hash) : encap4(skb, p, to, hash);
}
