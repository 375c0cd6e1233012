/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What a frame between nodes has in front of the task's packet: VXLAN (RFC 7348) in UDP in IPv4 or
 * IPv6, the sender's identity in the group policy field.
 */

#include "lib/deliver.h"

/* In front of the inner IP header. The MACs of eth are filled in by the neighbour table. */
struct tunnel_frame {
	struct ethernet eth;
	struct ipv4 ip;
	struct udp udp;
	struct vxlan vxlan;
	struct ethernet inner;
} WIRE;

/* The same over IPv6. */
struct tunnel_frame6 {
	struct ethernet eth;
	struct ipv6 ip;
	struct udp udp;
	struct vxlan vxlan;
	struct ethernet inner;
} WIRE;

enum {
	TUNNEL_ROOM = sizeof(struct tunnel_frame) - sizeof(struct ethernet),
	TUNNEL_ROOM6 = sizeof(struct tunnel_frame6) - sizeof(struct ethernet),
	TUNNEL_TTL = 64,
	TUNNEL_PORT_FIRST = 32768, /* source ports, of 15 bits of the flow's hash */
};

_Static_assert(TUNNEL_ROOM == 50 && TUNNEL_ROOM6 == 70,
	       "task links are that much smaller than the underlay");

#define TUNNEL_FLAGS_OF(L3)                                            \
	(BPF_F_ADJ_ROOM_FIXED_GSO | L3 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | \
	 BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2(sizeof(struct ethernet)))
#define TUNNEL_FLAGS  TUNNEL_FLAGS_OF(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4)
#define TUNNEL_FLAGS6 TUNNEL_FLAGS_OF(BPF_F_ADJ_ROOM_ENCAP_L3_IPV6)

static __always_inline __be16 ipv4_checksum(const struct ipv4 *ip)
{
	const __be16 *words = (const void *)ip;
	__u32 sum = 0;

	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

/* The part of the checksum that the outer IPv4 header of every frame has: version, length of the
 * header, DF, TTL and protocol. */
#define TUNNEL_SUM (bpf_htons(0x4500) + bpf_htons(IPV4_DF) + bpf_htons(TUNNEL_TTL << 8 | PROTO_UDP))

static __always_inline __be16 tunnel_checksum(__be32 dst, __be16 total, __u8 tos)
{
	__u32 sum = TUNNEL_SUM + (node_addr4 & 0xffff) + (node_addr4 >> 16) + (dst & 0xffff) +
		    (dst >> 16) + total + bpf_htons(tos);

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

static __always_inline void own_addr6(void *to)
{
	for (int i = 0; i < 4; i++) {
		__be32 part = constant(&node_addr6, i);

		memcpy(to + 4 * i, &part, 4);
	}
}

static __always_inline __be16 port_to(const struct block *to)
{
	return bpf_htons(is_second(to) ? tunnel_port2 : tunnel_port);
}

/* From UDP on: size is its length, bytes; 0 above 64 KiB, which
 * the receiver ignores. */
static __always_inline void tunnel_rest(const struct packet *p, const struct block *to, __u32 size,
					__u32 hash, struct udp *udp, struct vxlan *vxlan,
					struct ethernet *inner)
{
	udp->sport = bpf_htons(TUNNEL_PORT_FIRST | (hash & 0x7fff));
	udp->dport = port_to(to);
	udp->len = bpf_htons(size);
	udp->checksum = 0;
	vxlan->flags = VXLAN_HAS_VNI | VXLAN_HAS_POLICY;
	vxlan->policy_flags = 0;
	vxlan->policy = bpf_htons(p->src_identity);
	vxlan->vni = bpf_htonl(p->vni << 8);
	inner->type = p->ethertype;
	inner_macs(p, inner->dst, inner->src);
}

/* Length of what follows the outer headers up to and with before, bytes; 0 above 64 KiB. */
static __always_inline __u32 tunnel_size(const struct packet *p, __u32 room, __u32 before)
{
	__u32 total = p->len - sizeof(struct ethernet) + room;

	return total > 0xffff ? 0 : total - before;
}

static __always_inline void tunnel_frame_of(const struct packet *p, const struct block *to,
					    __u32 hash, struct tunnel_frame *f)
{
	__be16 total = bpf_htons(tunnel_size(p, TUNNEL_ROOM, 0));
	__be32 dst = word(&to->vtep, 3);
	__u8 tos = p->tos & ECN_MASK; /* RFC 6040 4.1 */

	f->eth.type = bpf_htons(ETHERTYPE_IPV4);
	f->ip.version_ihl = 0x45;
	f->ip.tos = tos;
	f->ip.total_len = total;
	f->ip.id = 0;
	f->ip.fragment = bpf_htons(IPV4_DF);
	f->ip.ttl = TUNNEL_TTL;
	f->ip.proto = PROTO_UDP;
	f->ip.src = node_addr4;
	f->ip.dst = dst;
	f->ip.checksum = tunnel_checksum(dst, total, tos);
	tunnel_rest(p, to, tunnel_size(p, TUNNEL_ROOM, sizeof(f->ip)), hash, &f->udp, &f->vxlan,
		    &f->inner);
}

/* UDP's sum is left out, which tunnels may (RFC 6935): the inner packet has its own. */
static __always_inline void tunnel_frame6_of(const struct packet *p, const struct block *to,
					     __u32 hash, struct tunnel_frame6 *f)
{
	__u32 size = tunnel_size(p, TUNNEL_ROOM6, sizeof(f->ip));

	f->eth.type = bpf_htons(ETHERTYPE_IPV6);
	f->ip.version_class_flow = bpf_htonl(0x60000000 | (p->tos & ECN_MASK) << 20);
	f->ip.payload_len = bpf_htons(size);
	f->ip.next = PROTO_UDP;
	f->ip.hop_limit = TUNNEL_TTL;
	own_addr6(f->ip.src);
	memcpy(f->ip.dst, &to->vtep, 16);
	tunnel_rest(p, to, size, hash, &f->udp, &f->vxlan, &f->inner);
}
