/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * VIPs per packet, for tasks whose sockets the cgroup programs do not see.
 *
 *             task T:p                                    backend B:b
 *   vip_out   T:p -> V:v   becomes   T:p -> B:b    ==>
 *   vip_in    T:p <- V:v   becomes   T:p <- B:b    <==    of the task's side too: B sees T itself
 *
 * A task may be its own backend (B is T). A packet from its own address it would not take, so both
 * directions are translated where they leave it, and each side sees the VIP:
 *
 *   vip_out   T:p -> V:v   becomes   V:p -> T:b           as if V asked
 *   vip_out   T:b -> V:p   becomes   V:v -> T:p           and V answered
 *
 * ICMP errors about what a task sent to a VIP are translated too, with what they quote: by vip_in,
 * and where a task says so of what it sent to itself, by vip_out. What becomes of a flow is noted
 * for the next choice (lib/outcome.h).
 *
 * translations remembers each flow twice, keyed by the packet as it is met; vip_links remembers
 * which links did this ever, so that all others pay one array look-up.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "headers/packet.h"
#include "lib/backend.h"
#include "lib/maps.h"
#include "lib/news.h"
#include "lib/outcome.h"
#include "lib/packet.h"
#include "lib/rewrite.h"

enum {
	VIP_TAKEN = 1, /* another flow has the backend's answers */
};

/* Gives the packet a backend, or what the backend sends to itself by way of a VIP back to it. */
static __always_inline int vip_write_out(struct __sk_buff *skb, struct packet *p,
					 struct vip_scratch *s)
{
	const struct peer *to = &s->choice.to;

	s->own.addr = p->src;
	if (same_addr(&to->addr, &p->dst)) { /* T:b -> V:p becomes V:v -> T:p */
		s->own.port = p->dport;
		return vip_write(skb, p, true, to) || vip_write(skb, p, false, &s->own);
	}
	if (vip_write(skb, p, false, to))
		return -1;
	p->translated = true;
	if (!same_addr(&to->addr, &s->own.addr))
		return 0;
	s->vip.port = p->sport; /* T:p -> V:v becomes V:p -> T:b */
	return vip_write(skb, p, true, &s->vip);
}

/* The key under which the answer of a backend to the packet of a task will be met. */
static __always_inline void vip_answer_key(const struct packet *p, const struct peer *backend,
					   struct flow_key *key)
{
	vip_flow(p, key);
	if (!same_addr(&backend->addr, &p->src)) /* else it answers the VIP */
		key->dst = p->src;
	key->src = backend->addr;
	key->sport = backend->port;
	key->dport = p->sport;
}

static __always_inline bool vip_opens(const struct packet *p)
{
	return p->proto == PROTO_TCP && (p->tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static __always_inline bool vip_comes_from(const struct translation *answer, const struct peer *vip)
{
	return answer->to.port == vip->port && same_addr(&answer->to.addr, &vip->addr);
}

/* Chooses a backend for a new flow: its answers are told apart from those of another (0), or not.
 */
static __always_inline int vip_try(const struct packet *p, const struct vip *vip,
				   struct vip_scratch *s, __u32 hash)
{
	struct translation *taken;

	s->made.backend_id = choose_backend(vip, &p->src, &s->choice, vip_opens(p), hash);
	if (!s->made.backend_id || is_mapped(&s->choice.to.addr) != is_ipv4(p))
		return -1;
	vip_answer_key(p, &s->choice.to, &s->answer);
	taken = bpf_map_lookup_elem(&translations, &s->answer);
	return taken && !vip_comes_from(taken, &s->vip) ? VIP_TAKEN : 0;
}

/*
 * A task may use one port for two VIPs that share a backend; its answers would be told apart no
 * more, so another backend is tried, and in the end the older flow loses. Three times, and no loop:
 * the compiler puts its head behind its body, which Linux 6.1 refuses.
 */
static __always_inline int vip_choose(const struct packet *p, const struct vip *vip,
				      struct vip_scratch *s)
{
	const __u32 other = 0x9e3779b9;
	__u32 hash = 0;
	int got;

	if (vip->policy == VIP_MAGLEV)
		hash = client_hash(&p->src, vip->affinity ? 0 : p->sport);
	got = vip_try(p, vip, s, hash);
	if (got == VIP_TAKEN)
		got = vip_try(p, vip, s, hash + other);
	if (got == VIP_TAKEN)
		got = vip_try(p, vip, s, hash + 2 * other);
	if (got >= 0)
		return 0;
	s->made.backend_id = 0;
	return -1;
}

/* Remembers a new flow in both directions, and that it waits for its first answer. What is told of
 * s->made beyond an address is of this flow alone. */
static __always_inline void vip_remember(const struct packet *p, const struct vip *vip,
					 struct vip_scratch *s)
{
	if (p->proto == PROTO_UDP || vip_opens(p)) {
		s->made.vip_id = vip->id;
		s->made.state = TRANSLATION_ASKED;
		outcome_asked(s->made.backend_id, p->proto);
	} else {
		s->made.backend_id = 0;
	}
	vip_record(s, &s->answer, &s->vip, 0);
	s->made.backend_id = 0;
	s->made.vip_id = 0;
	s->made.state = TRANSLATION_UNTOLD;
	vip_flow(p, &s->key);
	vip_record(s, &s->key, &s->choice.to, s->choice.slot);
}

/* Gives a new flow of a link's task a backend. Global, for its size. */
__noinline int vip_open(const struct packet *p, const struct vip *vip, __u32 link)
{
	struct vip_scratch *s = vip_paper();

	if (!p || !vip || !s || vip_choose(p, vip, s))
		return -1;
	vip_remember(p, vip, s);
	vip_mark_link(link, VIP_LINK_ASKS);
	return 0;
}

/* Whether the flow of a SYN or a datagram stays at s->choice; answer: what is known of its way
 * back, which a new connection does not keep. */
static __always_inline bool vip_stays(const struct packet *p, const struct vip *vip,
				      struct vip_scratch *s, struct translation *answer)
{
	if ((!answer || !outcome_again(answer, p->proto)) &&
	    !keep_backend(vip, &s->choice, vip_opens(p)))
		return true;
	if (answer && p->proto == PROTO_TCP)
		bpf_map_delete_elem(&translations, &s->answer);
	return false;
}

/*
 * Keeps the backend that a flow has, as long as it can: an established connection to the end,
 * datagrams while it is behind the VIP and takes them, a new connection (whose ports were used
 * before) and one that waits while it takes some.
 *
 * Where there is no room the table forgets who was not met for long, so first the way back of a
 * flow that is not answered. Its answer would not be known when it comes: who asks keeps it.
 */
static __always_inline int vip_keep(struct __sk_buff *skb, const struct packet *p,
				    const struct vip *vip, struct translation *known,
				    struct vip_scratch *s)
{
	struct translation *answer;
	bool mine;

	s->choice.to = known->to;
	s->choice.slot = known->slot;
	vip_answer_key(p, &known->to, &s->answer);
	answer = bpf_map_lookup_elem(&translations, &s->answer);
	mine = answer && vip_comes_from(answer, &s->vip);
	if (p->proto == PROTO_TCP && !vip_opens(p)) {
		if (mine && p->tcp & TCP_RST)
			outcome_left(skb, p, answer);
	} else if (!vip_stays(p, vip, s, mine ? answer : NULL)) {
		return -1;
	} else if (s->choice.slot != known->slot) {
		known->slot = s->choice.slot;
	}
	if (!answer)
		vip_record(s, &s->answer, &s->vip, 0);
	return 0;
}

/*
 * A task speaks to a backend itself, from a port that it used for a VIP before: what answers now
 * must not come from the VIP. The newer flow has the port. Global, for its keys.
 */
__noinline int vip_release(const struct packet *p)
{
	struct vip_scratch *s = vip_paper();
	struct peer backend = {};
	struct translation *old;

	if (!p || !s || p->fragment == FRAGMENT_LATER || (p->proto == PROTO_TCP && !vip_opens(p)))
		return 0;
	backend.addr = p->dst;
	backend.port = p->dport;
	vip_answer_key(p, &backend, &s->answer);
	old = bpf_map_lookup_elem(&translations, &s->answer);
	if (!old)
		return 0;
	vip_flow(p, &s->key);
	s->key.dst = old->to.addr;
	s->key.dport = old->to.port;
	bpf_map_delete_elem(&translations, &s->key);
	return bpf_map_delete_elem(&translations, &s->answer);
}

enum vip_found {
	VIP_FOUND_NOTHING, /* it is of no VIP */
	VIP_FOUND_FLOW, /* s->choice has where it goes */
	VIP_FOUND_NEW, /* it needs a backend */
};

/*
 * Finds where a packet of a task goes: to a VIP's backend, or (vip NULL) what translations knows.
 * Global, for its size; not together with vip_open and vip_give, for the stack's sake.
 */
__noinline int vip_find(struct __sk_buff *skb, const struct packet *p, const struct vip *vip)
{
	struct vip_scratch *s = vip_paper();
	struct translation *known;

	if (!p || !s)
		return VIP_FOUND_NOTHING;
	s->vip.addr = p->dst;
	s->vip.port = p->dport;
	known = vip_known(skb, p, s);
	if (known && (p->fragment == FRAGMENT_LATER || same_addr(&known->to.addr, &p->dst))) {
		s->choice.to = known->to;
		if (tells_outcome(p, known))
			outcome_back(skb, p, known);
		return VIP_FOUND_FLOW;
	}
	if (!vip)
		return VIP_FOUND_NOTHING;
	return known && !vip_keep(skb, p, vip, known, s) ? VIP_FOUND_FLOW : VIP_FOUND_NEW;
}

/* Sends the packet there. */
__noinline int vip_give(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();

	if (!p || !s)
		return TCX_DROP;
	vip_lead(skb, p, s);
	return vip_write_out(skb, p, s) ? drop(p, REASON_MALFORMED) : CONTINUE;
}

/* Makes the packet again what the task sent: it is to be told of that. */
__noinline int vip_undo(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();

	return p && s ? vip_write(skb, p, false, &s->vip) : -1;
}

/* Gives what a backend answers the VIP as its source, where translations knows it. */
__noinline int vip_restore(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();
	struct translation *known;

	if (!p || !s)
		return CONTINUE;
	known = vip_known(skb, p, s);
	if (!known)
		return CONTINUE;
	s->choice.to = known->to;
	if (tells_outcome(p, known))
		outcome_back(skb, p, known);
	vip_lead(skb, p, s);
	return vip_write(skb, p, true, &s->choice.to) ? drop(p, REASON_MALFORMED) : CONTINUE;
}

/* Whether an ICMP error says that nobody takes what was sent. */
static __always_inline bool vip_finds_nobody(struct __sk_buff *skb, const struct packet *p)
{
	__u8 code = 0;

	bpf_skb_load_bytes(skb, p->l4 + __builtin_offsetof(struct icmp, code), &code, 1);
	if (is_ipv4(p))
		return p->icmp == ICMP_UNREACHABLE && code != ICMP_FRAGMENTATION_NEEDED;
	return p->icmp == ICMPV6_UNREACHABLE;
}

/* Finds what an ICMP error is about: the answer's translation, the backend in own, the VIP in
 * choice. */
static __always_inline struct translation *vip_quoted(struct __sk_buff *skb, const struct packet *p,
						      struct vip_scratch *s)
{
	struct translation *known;

	if (quoted_flow(skb, p, &s->key) || !same_addr(&s->key.src, &p->dst))
		return NULL;
	vip_flow(p, &s->answer);
	s->answer.src = s->key.dst;
	s->answer.sport = s->key.dport;
	s->answer.dport = s->key.sport;
	s->answer.proto = s->key.proto;
	if (s->answer.proto != PROTO_TCP && s->answer.proto != PROTO_UDP) /* ports were not read */
		return NULL;
	known = bpf_map_lookup_elem(&translations, &s->answer);
	if (!known)
		return NULL;
	s->own.addr = s->key.dst;
	s->own.port = s->key.dport;
	s->choice.to = known->to;
	return known;
}

/* An ICMP error, by a backend or on the way to it, becomes one about the VIP. Global as
 * vip_restore. */
__noinline int vip_news(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();
	struct translation *known;
	bool by_backend;

	if (!p || !s)
		return CONTINUE;
	known = vip_quoted(skb, p, s);
	if (!known)
		return CONTINUE;
	if (vip_finds_nobody(skb, p))
		outcome_unreachable(known, s->answer.proto);
	by_backend = same_addr(&p->src, &s->own.addr);
	if (translate_news(skb, p, &s->own, &s->choice.to, true, by_backend))
		return drop(p, REASON_MALFORMED);
	if (by_backend)
		p->src = s->choice.to.addr;
	return CONTINUE;
}

/*
 * An ICMP error of a task about what it sent to itself by way of a VIP (T to V, about V:p -> T:b)
 * becomes what it would have heard of the VIP (V to T, about T:p -> V:v). Global as vip_news.
 */
__noinline int vip_own_news(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();
	struct translation *known;

	if (!p || !s)
		return CONTINUE;
	known = vip_quoted(skb, p, s);
	if (!known || !same_addr(&s->own.addr, &p->src) || !same_addr(&known->to.addr, &p->dst))
		return CONTINUE;
	if (vip_finds_nobody(skb, p))
		outcome_unreachable(known, s->answer.proto);
	if (translate_news(skb, p, &s->own, &s->choice.to, true, true))
		return drop(p, REASON_MALFORMED);
	s->vip.addr = p->dst;
	s->vip.port = s->own.port = s->key.sport; /* which stays */
	if (translate_news(skb, p, &s->vip, &s->own, false, true))
		return drop(p, REASON_MALFORMED);
	p->src = s->vip.addr;
	p->dst = s->own.addr;
	return CONTINUE;
}

/* Step of a task's link: what it sends to a VIP goes to a backend. */
static __always_inline int vip_out(struct __sk_buff *skb, struct packet *p)
{
	struct vip_key key = {.vni = p->vni, .addr = p->dst, .port = p->dport, .proto = p->proto};
	const struct vip *vip = NULL;
	int found;

	if (!vip_carried(p)) {
		if (is_icmp(p) && is_icmp_error(p) && vip_link(skb->ifindex, VIP_LINK_ASKS))
			return vip_own_news(skb, p);
		return CONTINUE;
	}
	if (p->fragment != FRAGMENT_LATER)
		vip = bpf_map_lookup_elem(&vips, &key);
	if (!vip && !vip_link(skb->ifindex, VIP_LINK_ASKS))
		return CONTINUE;
	found = vip_find(skb, p, vip);
	if (found == VIP_FOUND_NOTHING)
		return CONTINUE;
	if (found == VIP_FOUND_NEW && vip_open(p, vip, skb->ifindex))
		return drop(p, REASON_NO_BACKEND);
	return vip_give(skb, p);
}

/* Step of a task's link for what it sends to a task's own address. */
static __always_inline void vip_direct(struct __sk_buff *skb, const struct packet *p)
{
	if (vip_carried(p) && vip_link(skb->ifindex, VIP_LINK_ASKS))
		vip_release(p);
}

/* Step before delivery to the link ifindex: what a backend answers comes from the VIP. */
static __always_inline int vip_in(struct __sk_buff *skb, struct packet *p, __u32 ifindex)
{
	if (vip_carried(p))
		return vip_link(ifindex, VIP_LINK_ASKS) ? vip_restore(skb, p) : CONTINUE;
	if (is_icmp(p) && is_icmp_error(p) && vip_link(ifindex, VIP_LINK_ASKS))
		return vip_news(skb, p);
	return CONTINUE;
}
