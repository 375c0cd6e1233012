/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* What connections to backends came to. */

#include "shared/types.h"

/*
 * feedbacks: backend id -> what this node's connections to it came to. The kernel half writes; Go
 * reads, and forgets backends that went.
 */
struct feedback {
	__u64 measured; /* bpf_ktime_get_ns of latency; it halves by the second */
	__u64 waiting; /* since when connects are out and none was answered */
	__u64 barred; /* until when it gets nothing new, 0: it may */
	__u64 tried; /* when it was chosen last while on trial */
	__u64 asked; /* since when a SYN of the packet path is out and none was answered, 0: none is
		      */
	__u32 latency; /* ns, of connects and short connections; 0: none yet */
	__s32 in_flight; /* connections of this node; below 0 after a restart in their midst */
	__s32 connecting; /* those not yet answered */
	__u32 failures; /* in a row */
};

_Static_assert(sizeof(struct feedback) == 56, "feedback");

/* loads: VIP id -> what is known of the VIP as a whole. The kernel half writes, Go forgets. */
struct load {
	__u64 measured; /* bpf_ktime_get_ns of best */
	__u32 best; /* least latency of late, ns; 0: none yet */
	__u32 turn; /* of round robin */
};

_Static_assert(sizeof(struct load) == 16, "load");

enum tally_size {
	TALLY_BUCKETS = 24, /* of latency: below 1 us << bucket; the last one takes the rest */
};

/* tallies: backend id -> what people want to see, per CPU. The kernel half writes, Go adds up. */
struct tally {
	__u64 chosen; /* times the backend was given a connection or a datagram's flow */
	__u64 refused; /* connects that were refused, by RST or ICMP */
	__u64 timeouts; /* connects that nobody answered */
	__u64 resets; /* connections that were cut before they said anything */
	__u64 ejections; /* times the backend was barred */
	__u64 latency_sum; /* ns, of the samples below */
	__u32 latency[TALLY_BUCKETS];
};

_Static_assert(sizeof(struct tally) == 144, "tally");
