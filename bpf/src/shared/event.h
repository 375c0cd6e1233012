/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Seeing: counters, events, traces. */

#include "shared/layout.h"

/* counters: per-CPU array, index enum reason. */
struct counter {
	__u64 packets;
	__u64 bytes;
};

/* Where a packet was met. Numbers are appended, never changed. */
enum program {
	PROGRAM_NONE = 0,
	PROGRAM_FROM_WORKLOAD = 1,
	PROGRAM_TO_WORKLOAD = 2,
	PROGRAM_FROM_UNDERLAY = 3,
	PROGRAM_FROM_TUNNEL = 4,
	PROGRAM_DNS = 5,
	PROGRAM_EDGE = 6,
	PROGRAM_FROM_NODE = 7,
};

/* One side of the flows to be traced, whichever way their packets go. */
struct trace_key {
	__u32 vni;
	struct addr addr;
	__be16 port; /* ICMP echo: the id; 0: any, and then any protocol */
	__u8 proto;
	__u8 pad;
};

_Static_assert(sizeof(struct trace_key) == 24, "trace_key");

/* traces: Go writes, the kernel half counts down. Asked only while `tracing` is set. */
struct trace {
	__u64 until; /* bpf_ktime_get_ns */
	__u32 left; /* packets that are still to be reported */
	__u32 pad;
};

_Static_assert(sizeof(struct trace) == 16, "trace");

/* events: ring buffer, sampled per CPU and reason. */
struct event {
	__u64 time; /* bpf_ktime_get_ns */
	__u32 ifindex;
	__u32 vni;
	__u32 rule;
	__u32 len; /* of the packet as met, bytes */
	struct addr src;
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u16 src_identity;
	__u16 dst_identity;
	__u8 proto;
	__u8 reason;
	__u8 program; /* enum program */
	__u8 traced; /* reported because of a trace, not by sampling */
	__u8 pad[4];
};

_Static_assert(sizeof(struct event) == 72, "event");
