/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Which backend of a VIP takes a new flow, and whether one that was taken is still there. Sockets
 * and packets choose by the same functions:
 *
 *   1. the client's earlier backend, where the VIP has affinity and it is willing
 *   2. the best of a few that are drawn: near ones, where the VIP prefers them. By Maglev none is
 *      drawn: the client's hash tells
 *   3. of all, when those were unwilling or slow
 *   4. the first willing one, in order; the best of the unwilling when there is none
 *
 * How many are drawn: one, by a policy that does not compare; two, to compare; up to four while the
 * best of them is far from the VIP's best, that is where backends differ. Functions are global
 * where they loop over look-ups, which are then verified once, and where they would make the
 * caller's stack frame large.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "lib/feedback.h"
#include "lib/maps.h"
#include "lib/packet.h"

enum {
	BACKEND_DRAWS = 4,
	BACKEND_SCAN = 32, /* slots that are looked at for a willing backend */
	BACKEND_TURNS = 8, /* slots of a Maglev table that are looked at for a willing backend */
	BACKEND_SEARCH = 32, /* slots that are searched for a backend that moved */
	BACKEND_FAR = 2, /* times the best latency: draw more */
	NEAR_GRACE = 1000000, /* ns that a near backend may be slower, besides, before others are
				 asked */
	SLOW_START_SHIFT = 3, /* a newcomer is drawn seldom for 8 s, then as any other */
	NEWCOMER_TIMES = 8, /* its score, when it is not its turn */
};

#define UNWILLING    (1ULL << 60) /* above every score of a willing one */
#define NO_CANDIDATE (1ULL << 62)
#define SECOND	     1000000000ULL

/* The best one so far. */
struct candidate {
	__u64 now; /* bpf_ktime_get_ns, of all that are compared */
	__u64 score; /* the less the better */
	__u32 slot;
	__u32 latency; /* ns, 0: not known */
	__u32 id;
	__u32 trial; /* whether it is on trial (lib/feedback.h) */
};

static __always_inline struct backend *backend_at(const struct vip *vip, __u32 slot)
{
	struct backend_key key = {.vip = vip->id, .slot = slot};

	return bpf_map_lookup_elem(&backends, &key);
}

/* Slots that take new flows. */
static __always_inline __u32 open_slots(const struct vip *vip)
{
	return vip->backends > vip->draining ? vip->backends - vip->draining : 0;
}

/* Whether a newcomer shall look busier than it is: always at first, never after the slow start. */
static __always_inline bool holds_back(const struct backend *b, __u64 now)
{
	__u32 age = (__u32)(now / SECOND) - b->since;

	if (!b->since || age >> SLOW_START_SHIFT)
		return false;
	return (bpf_get_prandom_u32() & ((1 << SLOW_START_SHIFT) - 1)) > age;
}

/*
 * (connections + 1) x latency, or without latency; connections are measured by the weight. A
 * latency that is not known counts as the least there is, as one does that nobody measured for long
 * (latency_now): beside backends that are slower it is asked at once, beside the fastest when it is
 * drawn first. That costs one connection, for it is on trial (lib/feedback.h); its latency is known
 * then. One that comes to a VIP that serves looks busier (holds_back), so it is tried seldom.
 */
static __always_inline __u64 score(const struct vip *vip, const struct backend *b,
				   const struct feedback *f, __u32 latency)
{
	__u64 busy = at_least_0(f->in_flight);

	if (vip->policy != VIP_LEAST_LATENCY && vip->policy != VIP_LEAST_CONNECTIONS)
		return 1;
	if (vip->weight && b->weight && b->weight != vip->weight)
		busy = busy * vip->weight / b->weight;
	if (vip->policy == VIP_LEAST_CONNECTIONS || !latency)
		latency = LATENCY_FLOOR;
	return (busy + 1) * latency;
}

/* Makes a slot the best one, when its backend is clearly better. */
__noinline int weigh(const struct vip *vip, __u32 slot, struct candidate *best)
{
	__u32 latency = 0;
	struct feedback *f;
	struct backend *b;
	__u64 now, s;

	if (!vip || !best)
		return -1;
	now = best->now;
	b = backend_at(vip, slot);
	if (!b || !b->weight)
		return -1;
	f = bpf_map_lookup_elem(&feedbacks, &b->id);
	if (f)
		latency = latency_now(f, now);
	s = f ? score(vip, b, f, latency) : LATENCY_FLOOR;
	if (holds_back(b, now))
		s *= NEWCOMER_TIMES;
	if (f && !is_willing(f, now))
		s |= UNWILLING;
	if (s + s / 4 >= best->score) /* a hair better is no better */
		return 0;
	best->score = s;
	best->slot = slot;
	best->latency = latency;
	best->id = b->id;
	best->trial = !f || on_trial(f);
	return 0;
}

/* The slot itself or, where weights differ, the one that it shares with. */
static __always_inline __u32 weighted(const struct vip *vip, __u32 slot)
{
	struct backend *b;

	if (!(vip->flags & VIP_WEIGHTED))
		return slot;
	b = backend_at(vip, slot);
	if (!b || (bpf_get_prandom_u32() & 0xffff) <= b->share)
		return slot;
	return b->other;
}

/* Whether the best one is about as good as the VIP's backends can be; grace in ns. */
static __always_inline bool is_good(const struct vip *vip, const struct candidate *best,
				    __u32 grace)
{
	__u32 id = vip->id;
	struct load *l;

	if (best->score >= UNWILLING)
		return false;
	if (vip->policy != VIP_LEAST_LATENCY || !best->latency)
		return true;
	l = bpf_map_lookup_elem(&loads, &id);
	return !l || best->latency <= (__u64)BACKEND_FAR * l->best + grace;
}

/* Of how many a policy takes the best, at least. */
static __always_inline __u32 draws(const struct vip *vip)
{
	switch (vip->policy) {
	case VIP_LEAST_LATENCY:
		return 2;
	case VIP_LEAST_CONNECTIONS:
		return BACKEND_DRAWS;
	default:
		return 1;
	}
}

static __always_inline __u32 first_slot(const struct vip *vip, __u32 count)
{
	struct load *l;

	if (vip->policy != VIP_ROUND_ROBIN)
		return bpf_get_prandom_u32() % count;
	l = find_load(vip->id);
	return l ? __sync_fetch_and_add(&l->turn, 1) % count : 0;
}

/*
 * The best of some of the first count slots; 0 when that is good enough to ask no others, as far as
 * there are near ones. No slot is drawn twice: the steps between them add up to less than count.
 */
__noinline int draw(const struct vip *vip, __u32 count, struct candidate *best)
{
	__u32 steps = bpf_get_prandom_u32(), wide, slot, least;

	if (!vip || !best || !count)
		return -1;
	wide = (count - 1) / (BACKEND_DRAWS - 1);
	if (!wide)
		wide = 1;
	slot = first_slot(vip, count);
	least = draws(vip);
	for (__u32 i = 0; i < BACKEND_DRAWS && i < count; i++) {
		if (i >= least && least == 1)
			break;
		if (i >= least && is_good(vip, best, 0))
			return 0;
		weigh(vip, weighted(vip, slot), best);
		slot = (slot + 1 + (steps & 0xff) % wide) % count;
		steps >>= 8;
	}
	return vip->near && is_good(vip, best, NEAR_GRACE) ? 0 : -1;
}

/*
 * 32 bits of a client's address and of what tells its connections apart, 0: nothing shall. Every
 * node has the same (multiplications carry upwards, shifts bring back down).
 */
static __always_inline __u32 client_hash(const struct addr *client, __u64 part)
{
	__u64 hash = ((__u64)word(client, 0) << 32 | word(client, 1)) * 0xbf58476d1ce4e5b9;

	hash ^= hash >> 29;
	hash = (hash ^ ((__u64)word(client, 2) << 32 | word(client, 3))) * 0x94d049bb133111eb;
	hash ^= hash >> 31;
	hash = (hash ^ part) * 0xff51afd7ed558ccd;
	hash ^= hash >> 32;
	return hash * 0xc4ceb9fe1a85ec53 >> 32;
}

/*
 * The backend that a hash leads to, or the next one in the table that takes something new: a
 * client's are the same on every node. Fails where there is no table.
 */
__noinline int turn(const struct vip *vip, __u32 hash, struct candidate *best)
{
	const struct maglev *table;
	__u32 id, at;

	if (!vip || !best)
		return -1;
	id = vip->id;
	table = bpf_map_lookup_elem(&maglevs, &id);
	if (!table)
		return -1;
	at = (__u64)hash * MAGLEV_SLOTS >> 32;
	for (int i = 0; i < BACKEND_TURNS && best->score >= UNWILLING; i++) {
		if (at >= MAGLEV_SLOTS)
			at = 0;
		if (table->slots[at] < open_slots(vip)) /* else it is about to be written */
			weigh(vip, table->slots[at], best);
		at++;
	}
	return 0;
}

/* The first willing backend from a slot on. */
__noinline int scan(const struct vip *vip, __u32 from, struct candidate *best)
{
	__u32 count;

	if (!vip || !best)
		return -1;
	count = open_slots(vip);
	for (__u32 i = 0; i < BACKEND_SCAN && i < count; i++) {
		weigh(vip, (from + i) % count, best);
		if (best->score < UNWILLING)
			return 0;
	}
	return -1;
}

/* Of several that choose a backend on trial at once, one gets 0. Global, for a fresh row's size. */
__noinline int try_out(__u32 id)
{
	return claim_trial(id) ? 0 : -1;
}

/*
 * Whether choice is still behind the VIP: for what is under way (fresh false) also when it drains.
 * Follows it to another slot; returns 0, or -1 when it is gone.
 */
__noinline int keep_backend(const struct vip *vip, struct socket_peer *choice, bool fresh)
{
	__u32 slot;

	if (!vip || !choice)
		return -1;
	slot = choice->slot; /* as it was; then all from the first on */
	for (__u32 i = 0; i <= BACKEND_SEARCH; i++) {
		struct backend *b = slot < vip->backends ? backend_at(vip, slot) : NULL;

		if (b && b->port == choice->to.port && same_addr(&b->addr, &choice->to.addr)) {
			choice->slot = slot;
			return fresh && slot >= open_slots(vip) ? -1 : 0;
		}
		slot = i;
		if (slot >= vip->backends)
			break;
	}
	return -1;
}

/* The backend that the client had, as long as it can and the VIP's time-out allows: its id, or 0.
 */
__noinline __u32 keep_client(const struct vip *vip, const struct addr *client,
			     struct socket_peer *choice)
{
	__u64 now = bpf_ktime_get_ns();
	struct affinity_key key;
	struct feedback *f;
	struct affinity *a;
	struct backend *b;

	if (!vip || !client || !choice)
		return 0;
	key.vip = vip->id;
	key.client = *client;
	a = bpf_map_lookup_elem(&affinities, &key);
	if (!a || now - a->seen > vip->affinity * SECOND)
		return 0;
	*choice = a->backend;
	if (keep_backend(vip, choice, true))
		return 0;
	b = backend_at(vip, choice->slot);
	f = b ? bpf_map_lookup_elem(&feedbacks, &b->id) : NULL;
	if (!b || (f && f->barred > now))
		return 0;
	a->seen = now;
	return b->id;
}

__noinline int remember_client(const struct vip *vip, const struct addr *client,
			       const struct socket_peer *choice)
{
	struct affinity a = {.seen = bpf_ktime_get_ns()};
	struct affinity_key key;

	if (!vip || !client || !choice)
		return -1;
	key.vip = vip->id;
	key.client = *client;
	a.backend = *choice;
	return bpf_map_update_elem(&affinities, &key, &a, BPF_ANY);
}

/*
 * Writes the backend for a new flow of a client to choice; returns its id, or 0 when there is none.
 * What becomes of a measured flow will be known: only such a one can try out a backend. hash:
 * client_hash, which VIP_MAGLEV asks for.
 */
__noinline __u32 choose_backend(const struct vip *vip, const struct addr *client,
				struct socket_peer *choice, bool measured, __u32 hash)
{
	struct candidate best = {.now = bpf_ktime_get_ns(), .score = NO_CANDIDATE};
	struct backend *b;
	__u32 kept;

	if (!vip || !client || !choice || !open_slots(vip))
		return 0;
	kept = vip->affinity ? keep_client(vip, client, choice) : 0;
	if (kept)
		return kept;
	if (vip->policy != VIP_MAGLEV || turn(vip, hash, &best)) {
		if (!vip->near || draw(vip, vip->near, &best))
			draw(vip, open_slots(vip), &best);
	}
	for (int i = 0; i < BACKEND_DRAWS; i++) {
		if (best.score >= UNWILLING && scan(vip, best.slot, &best))
			break;
		if (!measured || !best.trial || !try_out(best.id))
			break;
		best.score |= UNWILLING;
	}
	b = best.score < NO_CANDIDATE ? backend_at(vip, best.slot) : NULL;
	if (!b)
		return 0;
	choice->to.addr = b->addr;
	choice->to.port = b->port;
	choice->slot = best.slot;
	if (vip->affinity)
		remember_client(vip, client, choice);
	return b->id;
}
