/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Which backend a packet goes to: by the slot of its flow alone, where no change is in progress; by
 * what is known of the flow, where one is (lb/maglev/generation.go has the rules and their proof).
 */

#include "lib/config.h"
#include "lib/decap.h"
#include "lib/edge_maps.h"
#include "lib/edge_parse.h"
#include "lib/edge_task.h"

enum {
	EDGE_REFRESH_NS = 1000000000, /* how far behind `seen` may be */
};

/* Ends the walk with a drop. */
static __always_inline const struct edge_backend *edge_drop(struct edge_packet *e,
							    enum reason reason)
{
	e->reason = reason;
	return NULL;
}

/*
 * 64 bits of the client's address and port. Multiplications by odd numbers carry upwards, shifts
 * bring back down: the upper half, which decides the slot, depends on every bit of both.
 */
static __always_inline __u64 edge_hash(const struct edge_packet *e, const struct edge_vip *vip)
{
	const struct addr *a = &e->flow.client;
	__u64 hash = edge_seed ^ word(a, 3);

	if (!(vip->flags & EDGE_VIP_AFFINITY))
		hash ^= (__u64)e->flow.port << 32;
	if (e->ethertype != bpf_htons(ETHERTYPE_IPV4)) {
		hash = (hash ^ (__u64)word(a, 2) << 24) * 0xbf58476d1ce4e5b9;
		hash ^= hash >> 29;
		hash = (hash ^ ((__u64)word(a, 0) << 32 | word(a, 1))) * 0x94d049bb133111eb;
		hash ^= hash >> 31;
	}
	hash *= 0xff51afd7ed558ccd;
	hash ^= hash >> 32;
	return hash * 0xc4ceb9fe1a85ec53;
}

/* Whether this second has room for one more flow to be learnt on this CPU. */
static __always_inline bool edge_may_learn(__u64 now)
{
	__u32 zero = 0;
	struct edge_learning *l = bpf_map_lookup_elem(&edge_learnings, &zero);

	if (!l)
		return false;
	if (now - l->since > EDGE_REFRESH_NS) {
		l->since = now;
		l->flows = 0;
	}
	if (l->flows >= edge_learns_per_second)
		return false;
	l->flows++;
	return true;
}

/* Whether it is a backend of this node. */
static __always_inline bool edge_here(const struct edge_backend *b)
{
	return underlay6 ? is_own6(&b->vtep) : word(&b->vtep, 3) == node_addr4;
}

static __always_inline bool edge_serves(__u32 backend)
{
	const struct edge_backend *b = bpf_map_lookup_elem(&edge_backends, &backend);

	return b && !no_addr(&b->vtep);
}

/* Makes the flow known; false where there is no room, or no memory. */
static __always_inline bool edge_learn(const struct edge_flow_key *key, __u32 backend, __u64 now)
{
	struct edge_flow flow = {.backend = backend, .seen = now};

	return edge_may_learn(now) && !bpf_map_update_elem(&edge_flows, key, &flow, BPF_ANY);
}

/*
 * The backend of a flow of a slot where flows may be known. A flow that can't be made known goes to
 * the previous backend in all its packets, so that a flood may delay a change but cuts no flow.
 * Global: what it needs of the stack is its own.
 */
__noinline __u32 edge_known(const struct edge_packet *e, __u32 current, __u32 previous)
{
	struct edge_flow_key key;
	struct edge_flow *f;
	bool changing;
	__u64 now;

	if (!e)
		return current;
	key = e->flow; /* Linux 6.1 takes no key from a caller's stack */
	previous &= ~EDGE_SLOT_KEPT;
	changing = previous != current;
	f = bpf_map_lookup_elem(&edge_flows, &key);
	if (e->quoted)
		return f ? f->backend : previous;
	now = bpf_ktime_get_coarse_ns();
	if (e->opens) {
		if (f) { /* of an earlier connection of the same ports, or a SYN sent again */
			f->backend = current;
			f->seen = now;
			return current;
		}
		return !changing || edge_learn(&key, current, now) ? current : previous;
	}
	if (f && edge_serves(f->backend)) {
		if (now - f->seen > EDGE_REFRESH_NS)
			f->seen = now;
		return f->backend;
	}
	if (changing)
		edge_learn(&key, previous, now);
	return previous;
}

static __always_inline bool same_vip(const struct edge_vip_key *a, const struct edge_vip_key *b)
{
	return same_addr(&a->addr, &b->addr) && get32(&a->port) == get32(&b->port);
}

/* The row of e's VIP, or NULL. Without a generation, 0, nothing is kept. */
static __always_inline const struct edge_vip *edge_find(const struct edge_packet *e)
{
	const struct edge_vip_key *key = &e->flow.vip;
	__u32 zero = 0;
	const __u32 *generation = bpf_map_lookup_elem(&edge_generation, &zero);
	__u32 now = generation ? *generation : 0; /* read before the row is */
	__u32 index = (word(&key->addr, 3) ^ get32(&key->port)) * 0x9e3779b1U >> 22;
	struct edge_cached *c = bpf_map_lookup_elem(&edge_cache, &index);
	const struct edge_vip *vip;

	_Static_assert(EDGE_CACHE == 1 << (32 - 22), "index");
	if (c && now && c->generation == now && same_vip(&c->key, key))
		return &c->vip;
	vip = bpf_map_lookup_elem(&edge_vips, key);
	if (vip && c && now) {
		c->key = *key;
		c->vip = *vip;
		c->generation = now;
	}
	return vip;
}

enum {
	QUIC_FORM = 0xc0, /* RFC 9000 17.3: of a short header 01, the only one whose id a server
			     chose */
	QUIC_SHORT = 0x40,
	QUIC_CONFIGURATION = 0xe0, /* of a connection id's first byte; 0 is ours */
};

/*
 * The backend that a QUIC connection id names: a client that moves to another address keeps its
 * backend. NULL: it names none. Global: it has a key of its own, and few ask.
 */
__noinline int edge_named(const struct edge_packet *e, const struct edge_task *task, __u32 *backend)
{
	struct edge_connection_key key;
	const __u32 *found;

	if (!e || !task || !backend)
		return -1;
	key.vip = e->flow.vip;
	memcpy(key.task, task->bytes, sizeof(key.task));
	found = bpf_map_lookup_elem(&edge_connections, &key);
	if (!found || !edge_serves(*found))
		return -1;
	*backend = *found;
	return 0;
}

static __always_inline int edge_connection(const void *data, const void *end,
					   const struct edge_packet *e, __u32 *backend)
{
	const void *at = data + e->payload;
	struct edge_task task;

	if (!e->payload || at + 2 + sizeof(task) > end ||
	    (*(const __u8 *)at & QUIC_FORM) != QUIC_SHORT ||
	    *(const __u8 *)(at + 1) & QUIC_CONFIGURATION)
		return -1;
	memcpy(task.bytes, at + 2, sizeof(task));
	return edge_named(e, &task, backend);
}

/* To an address that is VIPs' alone, drop; else it may be the node's own. */
static __always_inline const struct edge_backend *edge_refuse(struct edge_packet *e,
							      enum reason reason)
{
	struct edge_vip_key key = {.addr = e->flow.vip.addr};

	return bpf_map_lookup_elem(&edge_vips, &key) ? edge_drop(e, reason) : NULL;
}

/* Without ports, or with those of a first fragment. */
static __always_inline const struct edge_backend *edge_odd(struct edge_packet *e,
							   enum edge_kind kind)
{
	if (kind == EDGE_FRAGMENT && e->flow.vip.proto &&
	    bpf_map_lookup_elem(&edge_vips, &e->flow.vip))
		return edge_drop(e, REASON_FRAGMENT);
	return edge_refuse(e, kind == EDGE_FRAGMENT    ? REASON_FRAGMENT
			      : kind == EDGE_EXTENSION ? REASON_EXTENSION
						       : REASON_NOT_SERVED);
}

/* What nodes send each other comes in by the same device, and is most of what does. */
static __always_inline bool is_tunnel(const struct edge_packet *e)
{
	if (!is_tunnel_port(e->flow.vip.port) || e->flow.vip.proto != PROTO_UDP)
		return false;
	if (underlay6)
		return is_own6(&e->flow.vip.addr);
	return e->ethertype == bpf_htons(ETHERTYPE_IPV4) &&
	       word(&e->flow.vip.addr, 3) == node_addr4;
}

/*
 * The backend that takes the packet, and 15 bits of its flow's hash. NULL: with a reason it is
 * dropped, without one it is not the edge's.
 */
static __always_inline const struct edge_backend *edge_steer(const void *data, const void *end,
							     struct edge_packet *e, __u32 *hash15)
{
	enum edge_kind kind = edge_parse(data, end, e);
	const struct edge_backend *b;
	const struct edge_slot *slot;
	const struct edge_vip *vip;
	__u32 index, backend;
	__u64 hash;

	if (kind == EDGE_FOREIGN || (kind == EDGE_FLOW && is_tunnel(e)))
		return NULL;
	if (kind != EDGE_FLOW)
		return edge_odd(e, kind);
	vip = edge_find(e);
	if (!vip)
		return edge_refuse(e, REASON_NOT_SERVED);
	hash = edge_hash(e, vip);
	*hash15 = hash & 0x7fff;
	index = vip->first + ((hash >> 32) * vip->slots >> 32);
	slot = vip->slots ? bpf_map_lookup_elem(&edge_slots, &index) : NULL;
	if (!slot)
		return edge_drop(e, REASON_NO_BACKEND);
	backend = slot->current;
	if (vip->flags & EDGE_VIP_QUIC && !edge_connection(data, end, e, &backend))
		; /* by its name, whatever slots say */
	else if (slot->previous != backend)
		backend = edge_known(e, backend, slot->previous);
	b = bpf_map_lookup_elem(&edge_backends, &backend);
	return b && !no_addr(&b->vtep) ? b : edge_drop(e, REASON_NO_BACKEND);
}
