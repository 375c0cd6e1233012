/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Where addresses live. */

#include "shared/layout.h"

/* The address is masked to the network's block length. */
struct block_key {
	__u32 vni;
	struct addr addr;
};

enum block_flags {
	BLOCK_LOCAL = 1 << 0, /* this node's own */
};

/* blocks: block of addresses -> the node that holds it. Go writes. */
struct block {
	struct addr vtep; /* underlay address of the node */
	__u16 mtu; /* largest inner IP packet towards that node, bytes */
	__u16 flags;
};

_Static_assert(sizeof(struct block) == 20, "block");

/* prefixes: LPM trie of every network's subnets. Asked only after blocks had no answer. */
struct prefix_key {
	__u32 len; /* of the 128-bit form: IPv4 /8 is 104 */
	struct addr addr;
};

struct prefix {
	__u32 vni;
};

/* vteps: the nodes whose frames are accepted (struct addr -> struct vtep). Go writes. */
struct vtep {
	__u32 flags;
};
