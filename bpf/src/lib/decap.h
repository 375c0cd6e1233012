/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * From another node: what is a tunnel frame for this node, from whom, of which network and
 * identity. The frame is opened here where that works; what is odd goes on to the kernel's device,
 * and comes back by from_tunnel.
 */

#include "lib/encap.h"
#include "lib/maps.h"
#include "lib/parse.h"

/* Offset of the inner frame; the decapsulated frame begins where the outer one did. */
enum {
	INNER = sizeof(struct tunnel_frame) - sizeof(struct ethernet),
};

static __always_inline bool is_node(__be32 addr)
{
	struct addr key;

	set_addr4(&key, addr);
	return bpf_map_lookup_elem(&vteps, &key) != NULL;
}

static __always_inline int not_ours(struct packet *p)
{
	return end(p, REASON_NOT_OURS, TCX_NEXT);
}

static __always_inline int slow_path(struct packet *p)
{
	return end(p, REASON_SLOW_PATH, TCX_NEXT);
}

/*
 * Reads the outer headers. Fragments and IP options are left to the kernel's device, but the sender
 * is checked all the same; a later fragment is nothing without its first.
 */
static __always_inline int open_outer(struct __sk_buff *skb, struct packet *p)
{
	struct cursor c = cursor_at(skb, 0, sizeof(struct tunnel_frame));
	struct ethernet *eth = take(&c, sizeof(*eth));
	struct ipv4 *ip = take(&c, sizeof(*ip));
	struct udp udp;
	__u32 header;

	if (!eth || !ip || eth->type != bpf_htons(ETHERTYPE_IPV4) || skb->vlan_present)
		return not_ours(p);
	header = (ip->version_ihl & 0xf) * 4;
	if (ip->dst != node_addr4 || ip->proto != PROTO_UDP || skb->pkt_type != PACKET_HOST ||
	    header < sizeof(*ip) || ip->fragment & bpf_htons(IPV4_OFFSET))
		return not_ours(p);
	set_addr4(&p->src, ip->src);
	set_addr4(&p->dst, ip->dst);
	p->tos = ip->tos;
	p->fragment = ip->fragment & bpf_htons(IPV4_MF) ? FRAGMENT_FIRST : FRAGMENT_NONE;
	p->l4 = sizeof(*eth) + header;
	if (read(skb, p->l4, &udp, sizeof(udp)) || udp.dport != bpf_htons(tunnel_port))
		return not_ours(p);
	p->proto = PROTO_UDP;
	p->sport = udp.sport;
	p->dport = udp.dport;
	if (!is_node(word(&p->src, 3)))
		return drop(p, REASON_UNKNOWN_VTEP);
	/* A checksum is verified where the kernel does it. */
	if (slow_decap || p->fragment || header != sizeof(*ip) || udp.checksum)
		return slow_path(p);
	return CONTINUE;
}

/* Reads the tunnel header: the network, and who sends. */
static __always_inline int open_tunnel(struct __sk_buff *skb, struct packet *p)
{
	struct vxlan vxlan;

	if (read(skb, p->l4 + sizeof(struct udp), &vxlan, sizeof(vxlan)))
		return drop(p, REASON_MALFORMED);
	if ((vxlan.flags & ~VXLAN_HAS_POLICY) != VXLAN_HAS_VNI)
		return drop(p, REASON_BAD_TUNNEL);
	p->vni = bpf_ntohl(vxlan.vni) >> 8;
	p->src_identity = vxlan.flags & VXLAN_HAS_POLICY ? bpf_ntohs(vxlan.policy) : IDENTITY_NONE;
	return CONTINUE;
}

/*
 * Takes the outer headers off (base: how many bytes; 0: the kernel did). A congestion mark on the
 * outside is carried over to the inside (RFC 6040 4.2). The caller writes the Ethernet header
 * (deliver).
 */
static __always_inline int decap(struct __sk_buff *skb, struct packet *p, __u32 base, __u8 tos)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO;

	if (!base)
		return CONTINUE;
	if (!is_ipv4(p))
		flags |= BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	/* Below Linux 6.3 that flag is refused, before anything was changed. */
	if (bpf_skb_adjust_room(skb, -(__s32)base, BPF_ADJ_ROOM_MAC, flags))
		return slow_path(p);
	p->l3 -= base;
	p->l4 -= base;
	if ((tos & ECN_MASK) == ECN_CE && !(p->tos & ECN_MASK))
		return drop(p, REASON_BAD_TUNNEL);
	if ((tos & ECN_MASK) == ECN_CE)
		bpf_skb_ecn_set_ce(skb);
	return CONTINUE;
}
