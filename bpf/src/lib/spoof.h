/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* A task sends as itself: with the MAC and the addresses that its link was given. */

#include "lib/parse.h"

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return get16(a) == get16(b) && get16(a + 2) == get16(b + 2) && get16(a + 4) == get16(b + 4);
}

static __always_inline int check_mac(struct __sk_buff *skb, struct packet *p,
				     const struct workload *w)
{
	struct cursor c = cursor_at(skb, 0, sizeof(struct ethernet));
	struct ethernet *eth = take(&c, sizeof(*eth));

	if (!eth)
		return drop(p, REASON_MALFORMED);
	return same_mac(eth->src, w->mac) ? CONTINUE : drop(p, REASON_SPOOFED_MAC);
}

/* A link without an address of the family has zero there, which no packet passes for. */
static __always_inline int check_source(struct packet *p, const struct workload *w)
{
	const struct addr *own = is_ipv4(p) ? &w->addr4 : &w->addr6;

	if (no_addr(own) || !same_addr(&p->src, own))
		return drop(p, REASON_SPOOFED_ADDRESS);
	return CONTINUE;
}
