/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * The way out of a program: into a task of this node, or back to the task that sent. Both go by
 * bpf_redirect_peer, so straight into the task's namespace; the kernel allows it from ingress only.
 * Or into the node's own stack, as if the packet had come by one of its devices.
 */

#include "lib/config.h"
#include "lib/packet.h"

/* Makes the receiver's stack take the frame for its own, whatever MAC it was met with. */
static __always_inline void claim(struct __sk_buff *skb)
{
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
}

static __always_inline void gateway(__u8 *mac)
{
	for (int i = 0; i < 6; i++)
		mac[i] = gateway_mac[i];
}

/* To the sender's own end of the link it was met on. */
static __always_inline int send_back(struct __sk_buff *skb, struct packet *p, enum reason reason)
{
	claim(skb);
	return end(p, reason, bpf_redirect_peer(skb->ifindex, 0));
}

static __always_inline int send_in(struct __sk_buff *skb, struct packet *p, __u32 ifindex,
				   enum reason reason)
{
	claim(skb);
	return end(p, reason, bpf_redirect(ifindex, BPF_F_INGRESS));
}

static __always_inline long address(struct __sk_buff *skb, const struct packet *p,
				    const struct endpoint *e)
{
	struct ethernet eth = {
		.type = p->ethertype}; /* of a frame from a tunnel the outer one's is there */

	memcpy(eth.dst, e->mac, 6);
	gateway(eth.src);
	return bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

static __always_inline int deliver(struct __sk_buff *skb, struct packet *p,
				   const struct endpoint *e)
{
	if (address(skb, p, e))
		return drop(p, REASON_REDIRECT_FAILED);
	claim(skb);
	return end(p, p->audited ? REASON_AUDITED : REASON_DELIVERED,
		   bpf_redirect_peer(e->ifindex, 0));
}

/* To the node itself. */
static __always_inline int deliver_own(struct __sk_buff *skb, struct packet *p,
				       const struct endpoint *e)
{
	if (address(skb, p, e))
		return drop(p, REASON_REDIRECT_FAILED);
	return send_in(skb, p, e->ifindex, REASON_TO_HOST);
}
