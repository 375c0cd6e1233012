/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What an edge node sent for a task of this one (docs/decisions/0008): a packet as its client sent
 * it, to the VIP. Which task it is for stands in the inner MACs.
 *
 *   serve           C:c -> V:v   becomes   C:c -> T:t   in; then the verdict on the world decides
 *   answer_client   T:t -> C:c   becomes   V:v -> C:c   out, by the node's routes, to the client;
 *                   or, where the VIP wants that (docs/decisions/0020), into the tunnel to the edge
 *                   node that sent the client's last packet
 *
 * ICMP errors are translated too, with what they quote: those about an answer are for whoever's it
 * was, those of a task are about what a client sent to the VIP.
 */

#include "headers/xdp.h"
#include "lib/decap.h"
#include "lib/deliver.h"
#include "lib/edge_task.h"
#include "lib/news.h"
#include "lib/policy.h"
#include "lib/rewrite.h"
#include "lib/route.h"
#include "lib/toobig.h"

enum {
	BY_EDGE = -3, /* no end: the packet goes to the edge node that edge_of_answer says */
};

/* Reads the task from the MACs of the inner frame at an offset (lib/edge_frame.h). */
static __always_inline int read_task(struct __sk_buff *skb, __u32 at, struct edge_task *task)
{
	__u8 macs[12];

	if (bpf_skb_load_bytes(skb, at, macs, sizeof(macs)) || macs[0] != 0x0a || macs[1] != 0x58 ||
	    macs[6] != 0x0a || macs[7] != 0x77)
		return -1;
	memcpy(task->bytes, macs + 8, 4);
	memcpy(task->bytes + 4, macs + 2, 4);
	return 0;
}

/*
 * What the task serves at the address and port that p is for; s gets the VIP, and the client's side
 * of the key by which the answer will be met.
 */
static __always_inline const struct edge_served *find_served(struct __sk_buff *skb,
							     const struct packet *p,
							     const struct edge_task *task,
							     struct vip_scratch *s)
{
	struct edge_served_key *key = &s->served;

	vip_flow(p, &s->answer);
	if (vip_carried(p)) {
		s->answer.dst = p->src;
		s->answer.dport = p->sport;
		s->vip.port = p->dport;
	} else {
		if (!is_icmp(p) || !is_icmp_error(p) || quoted_flow(skb, p, &s->key) ||
		    !same_addr(&s->key.src, &p->dst))
			return NULL;
		s->answer.dst = s->key.dst;
		s->answer.dport = s->key.dport;
		s->answer.proto = s->key.proto;
		s->vip.port = s->key.sport;
	}
	s->vip.addr = p->dst;
	key->vni = p->vni;
	key->vip.addr = p->dst;
	key->vip.port = s->vip.port;
	key->vip.proto = s->answer.proto;
	key->vip.pad = 0;
	memcpy(key->task, task->bytes, sizeof(key->task));
	return bpf_map_lookup_elem(&served, key);
}

/*
 * The edge node that the frame came from, by the address of its own processes; 0: by no tunnel, or
 * from a node that has none. base as of decap. Global, for its stack.
 */
__noinline __u32 sent_by(struct __sk_buff *skb, __u32 base)
{
	struct bpf_tunnel_key key = {};
	struct addr vtep = {};
	const struct vtep *v;
	__be32 src;

	if (!base) {
		if (!tunnel_key(skb, &key, &vtep))
			return 0;
	} else if (underlay6) {
		const __u32 at = sizeof(struct ethernet) + __builtin_offsetof(struct ipv6, src);

		if (bpf_skb_load_bytes(skb, at, &vtep, sizeof(vtep)))
			return 0;
	} else {
		const __u32 at = sizeof(struct ethernet) + __builtin_offsetof(struct ipv4, src);

		if (bpf_skb_load_bytes(skb, at, &src, sizeof(src)))
			return 0;
		set_addr4(&vtep, src);
	}
	v = find_vtep(&vtep);
	return v ? v->host : 0;
}

/* Where the answer will be looked for first. */
static __always_inline void *answers_of(const struct packet *p)
{
	if (p->proto == PROTO_TCP && p->tcp & (TCP_SYN | TCP_RST))
		return &client_attempts;
	return &client_answers;
}

/* The VIP that an answer comes from, whatever it was that made it known. */
static __always_inline struct translation *find_answer(const struct flow_key *key)
{
	struct translation *known = bpf_map_lookup_elem(&client_answers, key);

	return known ?: bpf_map_lookup_elem(&client_attempts, key);
}

static __always_inline void remember_answer(const struct packet *p, struct vip_scratch *s)
{
	void *map = answers_of(p);
	const struct translation *known = bpf_map_lookup_elem(map, &s->answer);

	if (known && known->slot == s->made.slot && known->to.port == s->vip.port &&
	    same_addr(&known->to.addr, &s->vip.addr))
		return;
	s->made.to = s->vip;
	s->made.to.pad = 0;
	s->made.since = bpf_ktime_get_coarse_ns();
	bpf_map_update_elem(map, &s->answer, &s->made, BPF_ANY);
}

/*
 * Makes the packet the task's, and asks whether it may have it: of the world, and by the verdict
 * alone, for it answers nothing that the task opened.
 */
static __always_inline int admit_client(struct __sk_buff *skb, struct packet *p,
					struct vip_scratch *s, const struct endpoint *e)
{
	bool narrow = false;
	__u32 action;

	p->dst_identity = e->identity;
	if (is_icmp(p)) { /* of a flow that was let in */
		if (!find_answer(&s->answer))
			return drop(p, REASON_NOT_PUBLIC);
		if (translate_news(skb, p, &s->vip, &s->choice.to, false, true))
			return drop(p, REASON_MALFORMED);
		p->dst = s->choice.to.addr;
		return CONTINUE;
	}
	if (vip_write(skb, p, false, &s->choice.to))
		return drop(p, REASON_MALFORMED);
	action = find_verdict(p, e, &narrow);
	if (action != VERDICT_ALLOW && action != VERDICT_AUDIT)
		return refuse(p, action, narrow);
	p->audited = action == VERDICT_AUDIT;
	remember_answer(p, s);
	return CONTINUE;
}

/*
 * Opens (base and tos as of decap), translates, judges and delivers. Global: it has keys of its
 * own.
 */
__noinline int serve(struct __sk_buff *skb, struct packet *p, const struct edge_task *task,
		     __u32 base, __u8 tos)
{
	struct vip_scratch *s = vip_paper();
	const struct edge_served *to;
	const struct endpoint *e;
	int verdict;

	if (!p || !task || !s)
		return TCX_DROP;
	if (p->fragment)
		return drop(p, REASON_FRAGMENT);
	to = find_served(skb, p, task, s);
	if (!to)
		return drop(p, REASON_NO_ENDPOINT);
	s->choice.to.addr = to->addr;
	s->choice.to.port = to->port;
	s->made.slot = to->flags & EDGE_SERVED_RELAYED ? sent_by(skb, base) : 0;
	s->answer.src = to->addr;
	s->answer.sport = to->port;
	s->endpoint.vni = p->vni;
	s->endpoint.addr = to->addr;
	e = bpf_map_lookup_elem(&endpoints, &s->endpoint);
	if (!e)
		return drop(p, REASON_NO_ENDPOINT);
	verdict = decap(skb, p, base, tos);
	if (verdict == CONTINUE)
		verdict = admit_client(skb, p, s, e);
	if (verdict != CONTINUE)
		return verdict;
	vip_mark_link(e->ifindex, VIP_LINK_SERVES);
	return deliver(skb, p, e);
}

/* By the routes of the node, as seen from the task's link. Global, for its size. */
__noinline int send_client(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_fib_lookup way = {};
	long failed;

	if (!p)
		return TCX_DROP;
	way.family = is_ipv4(p) ? AF_INET : AF_INET6;
	way.l4_protocol = p->proto;
	way.ifindex = skb->ifindex;
	if (is_ipv4(p)) {
		way.src[0] = word(&p->src, 3);
		way.dst[0] = word(&p->dst, 3);
	} else {
		memcpy(way.src, &p->src, 16);
		memcpy(way.dst, &p->dst, 16);
	}
	failed = bpf_fib_lookup(skb, &way, sizeof(way), 0);
	if (failed && failed != BPF_FIB_LKUP_RET_NO_NEIGH)
		return end(p, REASON_TO_HOST, TCX_NEXT);
	return end(p, REASON_TO_CLIENT, bpf_redirect_neigh(way.ifindex, NULL, 0, 0));
}

/* Where the node lives whose processes have the address, unless it is this one. */
static __always_inline const struct block *way_by(__be32 host)
{
	const struct block *to;
	struct addr node;

	if (!host)
		return NULL;
	set_addr4(&node, host);
	to = find_node(&node);
	return to && !(to->flags & BLOCK_LOCAL) ? to : NULL;
}

/* The edge node that an answer goes by, where its walk says BY_EDGE. */
static __always_inline void edge_of_answer(struct addr *node)
{
	struct vip_scratch *s = vip_paper();

	if (s)
		set_addr4(node, s->made.slot);
}

/* Later fragments have no ports: the first one leaves its translation by the datagram's id. */
static __always_inline struct translation *
known_answer(struct __sk_buff *skb, const struct packet *p, struct vip_scratch *s)
{
	struct translation *known;

	vip_flow(p, &s->key);
	if (p->fragment == FRAGMENT_LATER) {
		if (datagram_of(skb, p, &s->key))
			return NULL;
		return bpf_map_lookup_elem(&client_answers, &s->key);
	}
	known = bpf_map_lookup_elem(answers_of(p), &s->key);
	known = known ?: find_answer(&s->key);
	if (known && p->fragment == FRAGMENT_FIRST && !datagram_of(skb, p, &s->key)) {
		s->made = *known;
		bpf_map_update_elem(&client_answers, &s->key, &s->made, BPF_ANY);
	}
	return known;
}

/* Global: off the way of tasks that serve nobody outside. */
__noinline int answer_from_vip(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();
	const struct block *way;
	struct translation *known;

	if (!p || !s)
		return CONTINUE;
	known = known_answer(skb, p, s);
	if (!known)
		return CONTINUE;
	s->choice.to = known->to;
	s->made.slot = known->slot;
	way = way_by(known->slot);
	if (way && is_too_big(skb, p, way)) /* the task is told, of what it sent */
		return BY_EDGE;
	if (vip_write(skb, p, true, &s->choice.to))
		return drop(p, REASON_MALFORMED);
	return way ? BY_EDGE : send_client(skb, p);
}

/* A task's stack tells a client that what it sent did not arrive. Global as answer_from_vip. */
__noinline int news_from_vip(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();
	struct translation *known;

	if (!p || !s || quoted_flow(skb, p, &s->key) || !same_addr(&s->key.dst, &p->src))
		return CONTINUE;
	vip_flow(p, &s->answer);
	s->answer.dst = s->key.src;
	s->answer.sport = s->key.dport;
	s->answer.dport = s->key.sport;
	s->answer.proto = s->key.proto;
	known = find_answer(&s->answer);
	if (!known)
		return CONTINUE;
	s->own.addr = p->src;
	s->own.port = s->key.dport;
	s->choice.to = known->to;
	s->made.slot = known->slot;
	if (translate_news(skb, p, &s->own, &s->choice.to, true, true))
		return drop(p, REASON_MALFORMED);
	p->src = s->choice.to.addr;
	return way_by(s->made.slot) ? BY_EDGE : send_client(skb, p);
}

/* Step of a task's link for what leaves every network. BY_EDGE: it is to go on into the tunnel. */
static __always_inline int answer_client(struct __sk_buff *skb, struct packet *p)
{
	bool news = is_icmp(p) && is_icmp_error(p);

	if ((!news && !vip_carried(p)) || !vip_link(skb->ifindex, VIP_LINK_SERVES))
		return CONTINUE;
	return news ? news_from_vip(skb, p) : answer_from_vip(skb, p);
}
