/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Which backend of a VIP takes a new flow, and whether one that was taken is still there. Sockets
 * and packets choose by the same functions. Global: each has a loop with look-ups in it.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "lib/maps.h"
#include "lib/packet.h"

enum {
	BACKEND_TRIES = 32, /* slots without weight that a choice passes over */
	BACKEND_SEARCH = 32, /* slots that are searched for a backend that moved */
};

static __always_inline struct backend *backend_at(const struct vip *vip, __u32 slot)
{
	struct backend_key key = {.vip = vip->id, .slot = slot};

	return bpf_map_lookup_elem(&backends, &key);
}

/*
 * VIP_RANDOM: a random slot, or the next one that has weight. Writes the backend to choice; returns
 * 0, or -1 when there is none.
 */
__noinline int choose_backend(const struct vip *vip, struct socket_peer *choice)
{
	__u32 start, count;

	if (!vip || !choice)
		return -1;
	count = vip->backends;
	if (!count)
		return -1;
	start = bpf_get_prandom_u32() % count;
	for (__u32 i = 0; i < BACKEND_TRIES; i++) {
		__u32 slot = (start + i) % count;
		struct backend *b = backend_at(vip, slot);

		if (b && b->weight) {
			choice->to.addr = b->addr;
			choice->to.port = b->port;
			choice->slot = slot;
			return 0;
		}
	}
	return -1;
}

/*
 * Whether choice is still behind the VIP: for what is under way (fresh false) also without weight.
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
			return fresh && !b->weight ? -1 : 0;
		}
		slot = i;
		if (slot >= vip->backends)
			break;
	}
	return -1;
}
