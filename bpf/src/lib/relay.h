/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * On an edge node: answers from the VIPs that it publishes come back to it from nodes that have no
 * way of their own to clients (docs/decisions/0020).
 */

#include "lib/decap.h"
#include "lib/serve.h"

/*
 * Opens what a known node sent in p's network for an address that nobody here has (base and tos as
 * of decap), and sends it by the node's routes. Global: it has a key of its own.
 */
__noinline int relay(struct __sk_buff *skb, struct packet *p, __u32 base, __u8 tos)
{
	struct endpoint_key key = {};
	int verdict;

	if (!p)
		return TCX_DROP;
	key.vni = p->vni;
	key.addr = p->src;
	if (!bpf_map_lookup_elem(&relays, &key))
		return drop(p, REASON_NO_ENDPOINT);
	verdict = decap(skb, p, base, tos);
	if (verdict != CONTINUE)
		return verdict;
	/* Of a frame from a tunnel the outer one's type is there. */
	if (bpf_skb_store_bytes(skb, __builtin_offsetof(struct ethernet, type), &p->ethertype,
				sizeof(p->ethertype), 0))
		return drop(p, REASON_REDIRECT_FAILED);
	verdict = send_client(skb, p);
	if (p->reason == REASON_TO_CLIENT)
		p->reason = REASON_RELAYED;
	return verdict;
}
