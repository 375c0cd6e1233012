/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Probes of the path between two nodes: a tunnel frame of no network (VNI 0), as large as the
 * sender wants to know of, from a UDP socket of its daemon. The receiver's program sends the first
 * bytes of it back to that socket, so a path is known to carry that size on the very port that
 * tunnels use, and whether or not the receiver's daemon lives.
 */

#include "lib/decap.h"

enum {
	ECHO_DATA = 16, /* bytes behind the tunnel header that come back: the sender's to choose */
};

struct echo {
	struct ethernet eth;
	struct ipv4 ip;
	struct udp udp;
	struct vxlan vxlan;
	__u8 data[ECHO_DATA];
} WIRE;

struct echo6 {
	struct ethernet eth;
	struct ipv6 ip;
	struct udp udp;
	struct vxlan vxlan;
	__u8 data[ECHO_DATA];
} WIRE;

/* UDP has no sum: the sender's socket takes it without (RFC 6936 for IPv6). */
static __always_inline void echo_rest(const struct packet *p, struct udp *udp, struct vxlan *vxlan)
{
	udp->sport = p->dport;
	udp->dport = p->sport;
	udp->len = bpf_htons(sizeof(*udp) + sizeof(*vxlan) + ECHO_DATA);
	vxlan->flags = VXLAN_HAS_VNI;
}

/* To whom it came from, by the MAC that it came from: no route need be asked. */
static __always_inline int echo_back(struct __sk_buff *skb, struct ethernet *eth)
{
	__u8 from[6];

	if (bpf_skb_load_bytes(skb, 0, eth, sizeof(*eth)))
		return -1;
	memcpy(from, eth->src, 6);
	memcpy(eth->src, eth->dst, 6);
	memcpy(eth->dst, from, 6);
	return 0;
}

/* Global, as its frame would not fit the caller's stack. */
__noinline int echo4(struct __sk_buff *skb, struct packet *p)
{
	struct echo f = {};

	if (!p || echo_back(skb, &f.eth) ||
	    bpf_skb_load_bytes(skb, p->l4 + sizeof(struct udp) + sizeof(struct vxlan), f.data,
			       ECHO_DATA))
		return -1;
	f.ip.version_ihl = 0x45;
	f.ip.total_len = bpf_htons(sizeof(f) - sizeof(f.eth));
	f.ip.fragment = bpf_htons(IPV4_DF);
	f.ip.ttl = TUNNEL_TTL;
	f.ip.proto = PROTO_UDP;
	f.ip.src = node_addr4;
	f.ip.dst = word(&p->src, 3);
	f.ip.checksum = ipv4_checksum(&f.ip);
	echo_rest(p, &f.udp, &f.vxlan);
	return bpf_skb_change_tail(skb, sizeof(f), 0) ||
	       bpf_skb_store_bytes(skb, 0, &f, sizeof(f), BPF_F_INVALIDATE_HASH);
}

__noinline int echo6(struct __sk_buff *skb, struct packet *p)
{
	struct echo6 f = {};

	if (!p || echo_back(skb, &f.eth) ||
	    bpf_skb_load_bytes(skb, p->l4 + sizeof(struct udp) + sizeof(struct vxlan), f.data,
			       ECHO_DATA))
		return -1;
	f.ip.version_class_flow = bpf_htonl(0x60000000);
	f.ip.payload_len = bpf_htons(sizeof(f) - sizeof(f.eth) - sizeof(f.ip));
	f.ip.next = PROTO_UDP;
	f.ip.hop_limit = TUNNEL_TTL;
	own_addr6(f.ip.src);
	memcpy(f.ip.dst, &p->src, 16);
	echo_rest(p, &f.udp, &f.vxlan);
	return bpf_skb_change_tail(skb, sizeof(f), 0) ||
	       bpf_skb_store_bytes(skb, 0, &f, sizeof(f), BPF_F_INVALIDATE_HASH);
}

/* Answers a probe. One that holds less than its answer would is none. */
static __always_inline int answer_probe(struct __sk_buff *skb, struct packet *p)
{
	if (skb->gso_size || (underlay6 ? echo6(skb, p) : echo4(skb, p)))
		return drop(p, REASON_MALFORMED);
	return end(p, REASON_ANSWERED_PROBE, bpf_redirect(skb->ifindex, 0));
}
