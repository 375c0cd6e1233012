/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Towards another node: the frame in VXLAN (RFC 7348) in UDP in IPv4, the sender's identity in the
 * group policy field. Built here where that works, by the kernel's device where it does not.
 */

#include "lib/deliver.h"

/* In front of the inner IP header. */
struct tunnel_frame {
	struct ethernet eth; /* filled in by the neighbour table */
	struct ipv4 ip;
	struct udp udp;
	struct vxlan vxlan;
	struct ethernet inner;
} __attribute__((packed));

enum {
	TUNNEL_ROOM = sizeof(struct tunnel_frame) - sizeof(struct ethernet),
	TUNNEL_TTL = 64,
	TUNNEL_PORT_FIRST = 32768, /* source ports, of 15 bits of the flow's hash */
};

_Static_assert(TUNNEL_ROOM == 50, "task links are 50 bytes smaller than the underlay");

#define TUNNEL_FLAGS                                                                             \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | \
	 BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct ethernet)))

static __always_inline __be16 ipv4_checksum(const struct ipv4 *ip)
{
	const __be16 *words = (const void *)ip;
	__u32 sum = 0;

	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* MACs of the inner frame; a task's ends with the last four bytes of its address. */
static __always_inline void inner_macs(const struct packet *p, __u8 *dst, __u8 *src)
{
	dst[0] = 0x0a;
	dst[1] = 0x58;
	memcpy(dst + 2, p->dst.bytes + 12, 4);
	gateway(src);
}

/* By the kernel's device. Global, as encap: their headers would not fit the caller's stack. */
__noinline int encap_slow(struct __sk_buff *skb, struct packet *p, const struct block *to)
{
	struct bpf_tunnel_key key = {
		.local_ipv4 = bpf_ntohl(node_addr4),
		.tunnel_ttl = TUNNEL_TTL,
	};
	__u32 policy;
	__u8 macs[12];

	if (!p || !to)
		return TCX_DROP;
	key.tunnel_id = p->vni;
	key.remote_ipv4 = bpf_ntohl(word(&to->vtep, 3));
	policy = p->src_identity;
	inner_macs(p, macs, macs + 6);
	if (!tunnel_ifindex ||
	    bpf_skb_set_tunnel_key(skb, &key, sizeof(key),
				   BPF_F_ZERO_CSUM_TX |
					   (p->dont_fragment ? BPF_F_DONT_FRAGMENT : 0)) ||
	    bpf_skb_set_tunnel_opt(skb, &policy, sizeof(policy)) ||
	    bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
		return drop(p, REASON_ENCAP_FAILED);
	return end(p, REASON_ENCAPSULATED, bpf_redirect(tunnel_ifindex, 0));
}

/* len: of the frame to be carried. Above 64 KiB lengths are 0: the receiver ignores them. */
static __always_inline void tunnel_frame_of(const struct packet *p, const struct block *to,
					    __u32 hash, struct tunnel_frame *f)
{
	__u32 total = p->len - sizeof(struct ethernet) + TUNNEL_ROOM;

	if (total > 0xffff)
		total = 0;
	f->eth.type = bpf_htons(ETHERTYPE_IPV4);
	f->ip.version_ihl = 0x45;
	f->ip.tos = p->tos & ECN_MASK; /* RFC 6040 4.1 */
	f->ip.total_len = bpf_htons(total);
	f->ip.fragment = bpf_htons(IPV4_DF);
	f->ip.ttl = TUNNEL_TTL;
	f->ip.proto = PROTO_UDP;
	f->ip.src = node_addr4;
	f->ip.dst = word(&to->vtep, 3);
	f->ip.checksum = ipv4_checksum(&f->ip);
	f->udp.sport = bpf_htons(TUNNEL_PORT_FIRST | (hash & 0x7fff));
	f->udp.dport = bpf_htons(tunnel_port);
	f->udp.len = total ? bpf_htons(total - sizeof(struct ipv4)) : 0;
	f->vxlan.flags = VXLAN_HAS_VNI | VXLAN_HAS_POLICY;
	f->vxlan.policy = bpf_htons(p->src_identity);
	f->vxlan.vni = bpf_htonl(p->vni << 8);
	f->inner.type = p->ethertype;
	inner_macs(p, f->inner.dst, f->inner.src);
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

__noinline int encap(struct __sk_buff *skb, struct packet *p, const struct block *to)
{
	struct tunnel_frame f = {};
	__u32 hash;

	if (!p || !to)
		return TCX_DROP;
	if (slow_encap)
		return encap_slow(skb, p, to);
	hash = bpf_get_hash_recalc(skb); /* of the inner flow, so before there is an outer one */
	/* The kernel refuses a second tunnel inside a task's own; its device does not. */
	if (bpf_skb_adjust_room(skb, TUNNEL_ROOM, BPF_ADJ_ROOM_MAC, TUNNEL_FLAGS))
		return encap_slow(skb, p, to);
	tunnel_frame_of(p, to, hash ^ hash >> 16, &f);
	if (bpf_skb_store_bytes(skb, 0, &f, sizeof(f), BPF_F_INVALIDATE_HASH))
		return drop(p, REASON_ENCAP_FAILED);
	return end(p, REASON_ENCAPSULATED, send_out(f.ip.dst));
}
