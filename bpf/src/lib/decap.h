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
static __always_inline __u32 inner(void)
{
	return underlay6 ? TUNNEL_ROOM6 : TUNNEL_ROOM;
}

static __always_inline const struct vtep *find_vtep(const struct addr *addr)
{
	return bpf_map_lookup_elem(&vteps, addr);
}

/* What the kernel's device took off. False for the other family underneath: it has no such key, and
 * is no node's. */
static __always_inline bool tunnel_key(struct __sk_buff *skb, struct bpf_tunnel_key *key,
				       struct addr *vtep)
{
	if (bpf_skb_get_tunnel_key(skb, key, sizeof(*key), underlay6 ? BPF_F_TUNINFO_IPV6 : 0))
		return false;
	if (underlay6)
		memcpy(vtep, key->remote_ipv6, sizeof(*vtep));
	else
		set_addr4(vtep, bpf_htonl(key->remote_ipv4));
	return true;
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
 * The outer IP header, where it is one of a tunnel frame for this node: UDP is behind it. Fragments
 * and IP options are left to the kernel's device, but the sender is checked all the same; a later
 * fragment is nothing without its first.
 */
static __always_inline int open_ipv4(struct packet *p, struct cursor *c)
{
	struct ipv4 *ip = take(c, sizeof(*ip));
	__u32 header;

	if (!ip || p->ethertype != bpf_htons(ETHERTYPE_IPV4))
		return not_ours(p);
	header = (ip->version_ihl & 0xf) * 4;
	if (ip->dst != node_addr4 || ip->proto != PROTO_UDP || header < sizeof(*ip) ||
	    ip->fragment & bpf_htons(IPV4_OFFSET))
		return not_ours(p);
	set_addr4(&p->src, ip->src);
	set_addr4(&p->dst, ip->dst);
	p->tos = ip->tos;
	p->fragment = ip->fragment & bpf_htons(IPV4_MF) ? FRAGMENT_FIRST : FRAGMENT_NONE;
	p->l4 = sizeof(struct ethernet) + header;
	return CONTINUE;
}

static __always_inline bool is_own6(const struct addr *a)
{
	__be32 differs = 0;

	for (int i = 0; i < 4; i++)
		differs |= word(a, i) ^ constant(&node_addr6, i);
	return !differs;
}

/* What has extension headers, fragments too, is for the kernel's stack to open, and comes back. */
static __always_inline int open_ipv6(struct packet *p, struct cursor *c)
{
	struct ipv6 *ip = take(c, sizeof(*ip));

	if (!ip || p->ethertype != bpf_htons(ETHERTYPE_IPV6) || ip->next != PROTO_UDP)
		return not_ours(p);
	copy_addr(&p->src, ip->src);
	copy_addr(&p->dst, ip->dst);
	if (!is_own6(&p->dst) || is_mapped(&p->src))
		return not_ours(p);
	p->tos = bpf_ntohl(ip->version_class_flow) >> 20;
	p->fragment = FRAGMENT_NONE;
	p->l4 = sizeof(struct ethernet) + sizeof(*ip);
	return CONTINUE;
}

/* Reads the outer headers up to UDP's, and checks who sent them. */
static __always_inline int open_outer(struct __sk_buff *skb, struct packet *p)
{
	struct cursor c = cursor_at(skb, 0, sizeof(struct ethernet) + inner());
	struct ethernet *eth = take(&c, sizeof(*eth));
	const struct vtep *v;
	struct udp udp;
	int verdict;

	if (!eth || skb->vlan_present || skb->pkt_type != PACKET_HOST)
		return not_ours(p);
	p->ethertype = eth->type;
	verdict = underlay6 ? open_ipv6(p, &c) : open_ipv4(p, &c);
	if (verdict != CONTINUE)
		return verdict;
	if (read(skb, p->l4, &udp, sizeof(udp)) || !is_tunnel_port(udp.dport))
		return not_ours(p);
	p->proto = PROTO_UDP;
	p->sport = udp.sport;
	p->dport = udp.dport;
	v = find_vtep(&p->src);
	if (!v)
		return drop(p, REASON_UNKNOWN_VTEP);
	/* A checksum is verified where the kernel does it. */
	if (slow_decap || v->flags & VTEP_PLAIN || p->fragment ||
	    p->l4 + sizeof(udp) + sizeof(struct vxlan) != inner() || udp.checksum)
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
	if (is_ipv4(p) == underlay6) /* other than the outer family */
		flags |= underlay6 ? BPF_F_ADJ_ROOM_DECAP_L3_IPV4 : BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	/* Below Linux 6.3 these flags are refused, before anything was changed. */
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
