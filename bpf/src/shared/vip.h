/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* VIPs, the backends behind them, and what packets to them are translated to. */

#include "shared/layout.h"

struct vip_key {
	__u32 vni; /* 0: host network */
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

_Static_assert(sizeof(struct vip_key) == 24, "vip_key");

/*
 * vips: Go writes. A VIP with no backend stays: it refuses instead of leaking to the world.
 *
 *   slots   0 ... near-1 | near ...     | backends-draining ... backends-1
 *           near         | elsewhere    | draining: what they have, nothing new
 */
struct vip {
	__u32 id;
	__u16 backends; /* slots 0 .. backends-1 of backends are filled */
	__u16 draining; /* the last ones of them; the others are open */
	__u16 near; /* asked first, where that is wanted; 0: all alike */
	__u16 weight; /* mean of the open slots', 0: 1 */
	__u16 affinity; /* seconds for which a client stays at its backend, 0: none */
	__u8 policy; /* enum vip_policy */
	__u8 flags; /* enum vip_flags */
};

_Static_assert(sizeof(struct vip) == 16, "vip");

enum vip_policy {
	VIP_RANDOM = 0,
	VIP_LEAST_LATENCY = 1, /* of 2 to 4, the least (connections + 1) x latency */
	VIP_LEAST_CONNECTIONS = 2, /* of 4, the least connections + 1 */
	VIP_ROUND_ROBIN = 3,
	VIP_MAGLEV = 4, /* by the client's address and, without affinity, its port: struct maglev */
};

enum vip_flags {
	VIP_WEIGHTED = 1 << 0, /* weights of the open slots differ: shares decide who is drawn */
};

struct backend_key {
	__u32 vip;
	__u16 slot;
	__u16 pad;
};

/*
 * backends: Go writes. Where weights differ, a slot drawn at random stands for itself with the
 * probability share / 65535, else for other, which is open too (Walker's alias method: every
 * backend is drawn by its weight, with one more look-up whatever their number).
 */
struct backend {
	struct addr addr;
	__be16 port;
	__u16 weight; /* 0: draining */
	__u32 id; /* stable over changes of slot, of one VIP; what feedback is kept by */
	__u32 since; /* CLOCK_MONOTONIC seconds when it came to a VIP that served, 0: with the VIP
		      */
	__u16 share;
	__u16 other; /* slot */
};

_Static_assert(sizeof(struct backend) == 32, "backend");

/*
 * maglevs: id of a VIP -> which of its slots a client goes to, by a hash of its own. Every node's
 * leads it to the same backend, in whatever slot it has that. Go writes, where the policy asks.
 */
enum maglev_size {
	MAGLEV_SLOTS = 4057, /* prime; the largest with which a row and its head fit into 8 KiB */
};

struct maglev {
	__u16 slots[MAGLEV_SLOTS];
};

_Static_assert(sizeof(struct maglev) == 2 * MAGLEV_SLOTS, "maglev");

/* An address and port, as sockets and translations remember them. */
struct peer {
	struct addr addr;
	__be16 port;
	__u16 pad;
};

/*
 * What became of a flow that is balanced per packet:
 *
 *   ASKED --SYN-ACK, a datagram--> ANSWERED --FIN or RST of the backend, RST of the task--> OVER
 *     `--RST, ICMP------------------------------------------------------------------------->
 */
enum translation_state {
	TRANSLATION_UNTOLD = 0, /* its beginning was not seen, or is forgotten */
	TRANSLATION_ASKED = 1,
	TRANSLATION_ANSWERED = 2,
	TRANSLATION_OVER = 3, /* what opens next from its ports chooses anew */
};

/*
 * translations: per-packet VIPs. LRU, kernel writes. Two entries a flow, both keyed by the packet
 * as it is met: (task, VIP) -> backend on the way out, (backend, task) -> VIP on the way in. That
 * of the way in knows what became of the flow.
 */
struct translation {
	struct peer to;
	__u32 slot; /* of a backend: where it was found last; of client_answers: struct vtep's
		       host of the edge node by which the answer goes, 0: straight */
	__u64 since; /* bpf_ktime_get_ns of the first packet */
	__u32 backend_id; /* 0: nobody is told what becomes of the flow */
	__u32 vip_id;
	__be32 first; /* TCP sequence number of the first byte that the backend says */
	__u8 state; /* enum translation_state */
	__u8 pad[3];
};

_Static_assert(sizeof(struct translation) == 48, "translation");
