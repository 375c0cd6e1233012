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
#include "lib/edge_steer.h"
#include "lib/encap.h"

/* Everything behind the outer MACs. size: of the inner frame. */
static __always_inline void edge_frame(void *f, const struct edge_packet *e,
				       const struct edge_backend *b, __u32 size, __u32 hash15)
{
	__be16 total = 0, udp = 0; /* above 64 KiB the receiver ignores both */
	__u8 tos = e->tos & ECN_MASK; /* RFC 6040 4.1 */
	const __u32 *task = (const void *)b->task;

	size += TUNNEL_ROOM - sizeof(struct ethernet);
	if (size <= 0xffff) {
		total = bpf_htons(size);
		udp = bpf_htons(size - sizeof(struct ipv4));
	}
	put16(f + AT(tunnel_frame, eth.type), bpf_htons(ETHERTYPE_IPV4));
	put16(f + AT(tunnel_frame, ip), bpf_htons(0x4500 | tos));
	put16(f + AT(tunnel_frame, ip.total_len), total);
	put32(f + AT(tunnel_frame, ip.id), bpf_htonl(IPV4_DF));
	put16(f + AT(tunnel_frame, ip.ttl), bpf_htons(TUNNEL_TTL << 8 | PROTO_UDP));
	put16(f + AT(tunnel_frame, ip.checksum), tunnel_checksum(edge_node(b), total, tos));
	put32(f + AT(tunnel_frame, ip.src), node_addr4);
	put32(f + AT(tunnel_frame, ip.dst), edge_node(b));
	put16(f + AT(tunnel_frame, udp.sport), bpf_htons(TUNNEL_PORT_FIRST | hash15));
	put16(f + AT(tunnel_frame, udp.dport), bpf_htons(tunnel_port));
	put32(f + AT(tunnel_frame, udp.len), udp); /* and no checksum */
	put32(f + AT(tunnel_frame, vxlan),
	      bpf_htonl((VXLAN_HAS_VNI | VXLAN_HAS_POLICY) << 24 | IDENTITY_WORLD));
	put32(f + AT(tunnel_frame, vxlan.vni), bpf_htonl(b->vni << 8));
	put16(f + AT(tunnel_frame, inner.dst), bpf_htons(0x0a58));
	put32(f + AT(tunnel_frame, inner.dst) + 2, task[1]);
	put16(f + AT(tunnel_frame, inner.src), bpf_htons(0x0a77));
	put32(f + AT(tunnel_frame, inner.src) + 2, task[0]);
	put16(f + AT(tunnel_frame, inner.type), e->ethertype);
}
