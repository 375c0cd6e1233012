/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Where a port of the node leads to a port of a task, the world may come in by it, whatever the
 * task's groups are; a rule that denies the world was heard before. The address translation itself
 * is the node's firewall table (overlay/apply/firewall): its packets come as the world's.
 */

#include "lib/flow.h"

static __always_inline bool is_open(const struct packet *p, const struct addr *task, __be16 port,
				    __u8 proto)
{
	struct opening_key key = {.vni = p->vni, .addr = *task, .port = port, .proto = proto};

	return bpf_map_lookup_elem(&openings, &key);
}

/* News of what went out of an open port: without "too big" among it large answers would be lost. */
static __always_inline bool is_news(struct __sk_buff *skb, const struct packet *p)
{
	struct flow_key key = {.vni = p->vni};

	if (!is_icmp(p) || !is_icmp_error(p) || quoted_flow(skb, p, &key))
		return false;
	return same_addr(&key.src, &p->dst) && is_open(p, &key.src, key.sport, key.proto);
}

/* Lets p in where its port is open, or ends its walk as verdict says. Global: it has two keys. */
__noinline int open_port(struct __sk_buff *skb, struct packet *p, int verdict)
{
	if (!p || p->fragment == FRAGMENT_LATER)
		return verdict;
	if (!is_news(skb, p) && (is_icmp(p) || !is_open(p, &p->dst, p->dport, p->proto)))
		return verdict;
	p->reason = REASON_NONE;
	if (p->fragment == FRAGMENT_FIRST)
		lead(skb, p);
	return CONTINUE;
}
