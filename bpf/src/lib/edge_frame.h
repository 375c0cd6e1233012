/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * The packet as it goes to the backend's node: unchanged, to the VIP, in the network's tunnel.
 * Which task it is for stands in the inner frame's MACs, which every frame has and no receiver
 * keeps:
 *
 *   inner dst  0a:58 and the last 4 bytes of the task's address, as of every task
 *   inner src  0a:77 and the 4 bytes before those
 */

#include "lib/config.h"
#include "lib/decap.h"
#include "lib/edge_steer.h"

static __always_inline __be16 edge_port(const struct edge_backend *b)
{
	if (tunnel_port2 && b->flags & EDGE_BACKEND_SECOND_PORT)
		return bpf_htons(tunnel_port2);
	return bpf_htons(tunnel_port);
}

/* UDP, the tunnel's header and the inner frame's. size: of UDP, bytes; 0 above 64 KiB. */
static __always_inline void edge_inner(void *udp, const struct edge_packet *e,
				       const struct edge_backend *b, __u32 size, __u32 hash15)
{
	void *vxlan = udp + sizeof(struct udp), *eth = vxlan + sizeof(struct vxlan);
	const __u32 *task = (const void *)b->task;

	put16(udp + AT(udp, sport), bpf_htons(TUNNEL_PORT_FIRST | hash15));
	put16(udp + AT(udp, dport), edge_port(b));
	put32(udp + AT(udp, len), bpf_htons(size)); /* and no checksum, as in lib/frame.h */
	put32(vxlan, bpf_htonl((VXLAN_HAS_VNI | VXLAN_HAS_POLICY) << 24 | IDENTITY_WORLD));
	put32(vxlan + AT(vxlan, vni), bpf_htonl(b->vni << 8));
	put16(eth + AT(ethernet, dst), bpf_htons(0x0a58));
	put32(eth + AT(ethernet, dst) + 2, task[1]);
	put16(eth + AT(ethernet, src), bpf_htons(0x0a77));
	put32(eth + AT(ethernet, src) + 2, task[0]);
	put16(eth + AT(ethernet, type), e->ethertype);
}

/* size: of the IP packet, bytes; 0 above 64 KiB, which the receiver ignores. */
static __always_inline void edge_ipv4(void *ip, const struct edge_backend *b, __u32 size, __u8 tos)
{
	__be32 dst = word(&b->vtep, 3);

	put16(ip, bpf_htons(0x4500 | tos));
	put16(ip + AT(ipv4, total_len), bpf_htons(size));
	put32(ip + AT(ipv4, id), bpf_htonl(IPV4_DF));
	put16(ip + AT(ipv4, ttl), bpf_htons(TUNNEL_TTL << 8 | PROTO_UDP));
	put16(ip + AT(ipv4, checksum), tunnel_checksum(dst, bpf_htons(size), tos));
	put32(ip + AT(ipv4, src), node_addr4);
	put32(ip + AT(ipv4, dst), dst);
}

/* size: of what is behind the header. */
static __always_inline void edge_ipv6(void *ip, const struct edge_backend *b, __u32 size, __u8 tos)
{
	put32(ip, bpf_htonl(0x60000000 | tos << 20));
	put16(ip + AT(ipv6, payload_len), bpf_htons(size));
	put16(ip + AT(ipv6, next), bpf_htons(PROTO_UDP << 8 | TUNNEL_TTL));
	for (int i = 0; i < 4; i++) {
		put32(ip + AT(ipv6, src) + 4 * i, constant(&node_addr6, i));
		put32(ip + AT(ipv6, dst) + 4 * i, word(&b->vtep, i));
	}
}

/* Everything behind the outer MACs; fails where there is no room. size: of the inner frame. */
static __always_inline int edge_frame(void *f, const void *end, const struct edge_packet *e,
				      const struct edge_backend *b, __u32 size, __u32 hash15)
{
	__u8 tos = e->tos & ECN_MASK; /* RFC 6040 4.1 */
	__u32 rest = size + TUNNEL_ROOM - sizeof(struct ethernet) - sizeof(struct ipv4);
	void *udp;

	if (underlay6) {
		udp = f + AT(tunnel_frame6, udp);
		if (f + sizeof(struct tunnel_frame6) > end)
			return -1;
		if (rest + sizeof(struct ipv6) > 0xffff)
			rest = 0;
		put16(f + AT(ethernet, type), bpf_htons(ETHERTYPE_IPV6));
		edge_ipv6(f + AT(tunnel_frame6, ip), b, rest, tos);
	} else {
		udp = f + AT(tunnel_frame, udp);
		if (f + sizeof(struct tunnel_frame) > end)
			return -1;
		if (rest + sizeof(struct ipv4) > 0xffff)
			rest = 0;
		put16(f + AT(ethernet, type), bpf_htons(ETHERTYPE_IPV4));
		edge_ipv4(f + AT(tunnel_frame, ip), b, rest ? rest + sizeof(struct ipv4) : 0, tos);
	}
	opaque(udp); /* else each store behind it has an offset that is worked out anew */
	edge_inner(udp, e, b, rest, hash15);
	return 0;
}
