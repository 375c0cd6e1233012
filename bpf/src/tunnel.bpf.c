// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * Where frames of other nodes come in.
 *
 * from_underlay (ingress of the underlay):
 *   1. a tunnel frame for this node, from a node?  lib/decap.h
 *   2. of which network, from which identity       lib/decap.h
 *   3. a probe of the path: sent back              lib/echo.h
 *   4. parse, judge, open, deliver                 lib/receive.h
 *      to a VIP, by an edge node: its backend      lib/serve.h
 *      from a VIP, to an edge node: the client     lib/relay.h
 *   What is odd goes on to the kernel's VXLAN device.
 *
 * from_tunnel (ingress of that device): the same, the kernel having done 1 and half of 2; and what
 * plain nodes send, all of it                     lib/plain.h
 */

#include "lib/count.h"
#include "lib/decap.h"
#include "lib/echo.h"
#include "lib/plain.h"
#include "lib/receive.h"

static __always_inline int walk_underlay(struct __sk_buff *skb, struct packet *p)
{
	int verdict = open_outer(skb, p);
	__u8 tos = p->tos;

	if (verdict == CONTINUE)
		verdict = open_tunnel(skb, p);
	if (verdict != CONTINUE)
		return verdict;
	if (!p->vni)
		return answer_probe(skb, p);
	verdict = parse(skb, p, inner());
	return verdict == CONTINUE ? receive(skb, p, inner(), tos) : verdict;
}

SEC("tc")
int from_underlay(struct __sk_buff *skb)
{
	struct packet p = {.len = skb->len};
	int verdict;

	if (waits())
		return TCX_NEXT;
	verdict = walk_underlay(skb, &p);
	count(skb, &p, PROGRAM_FROM_UNDERLAY);
	return verdict;
}

static __always_inline const struct vtep *read_tunnel(struct __sk_buff *skb, struct packet *p,
						      struct addr *vtep)
{
	struct bpf_tunnel_key key = {};
	__u32 policy = 0;

	if (!tunnel_key(skb, &key, vtep))
		return NULL;
	bpf_skb_get_tunnel_opt(skb, &policy, sizeof(policy));
	p->vni = key.tunnel_id;
	p->src_identity = policy & 0xffff;
	return find_vtep(vtep);
}

static __always_inline int walk_tunnel(struct __sk_buff *skb, struct packet *p)
{
	struct addr vtep;
	const struct vtep *v = read_tunnel(skb, p, &vtep);
	int verdict;

	if (!v)
		return drop(p, REASON_UNKNOWN_VTEP);
	verdict = parse(skb, p, 0);
	if (verdict == CONTINUE && v->flags & VTEP_PLAIN)
		verdict = check_plain(skb, p, v, &vtep);
	return verdict == CONTINUE ? receive(skb, p, 0, 0) : verdict;
}

SEC("tc")
int from_tunnel(struct __sk_buff *skb)
{
	struct packet p = {.len = skb->len};
	int verdict;

	if (waits())
		return TCX_NEXT;
	verdict = walk_tunnel(skb, &p);
	count(skb, &p, PROGRAM_FROM_TUNNEL);
	return verdict;
}

char licence[] SEC("license") = "Dual BSD/GPL";
