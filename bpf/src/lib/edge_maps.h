/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Maps and constants of the edge, beside lib/maps.h and lib/config.h: a node without that duty has
 * none of them, so that they may be large and preallocated.
 */

#include "headers/kernel.h"
#include "shared/rows.h"

enum {
	MAX_EDGE_VIPS = 65536,
	MAX_EDGE_LINKS = 64,
	MAX_EDGE_SLOTS = 1 << 24, /* 128 MiB: 255 tables of 65,537 */
	MAX_EDGE_BACKENDS = 262144,
	MAX_EDGE_FLOWS = 262144,
	EDGE_CACHE = 1024, /* VIPs; 40 KiB of each CPU's memory */
	EDGE_HOPS = 1024, /* nodes; 56 KiB */
};

/* Mixed into the hash of flows: clients can't choose their slots. The same on all edge nodes. */
const volatile __u64 edge_seed = 0x5765667400000000;
/* Flows that each CPU may learn in a second; more of them go by what slots say. */
const volatile __u32 edge_learns_per_second = 4096;

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct edge_vip_key);
	__type(value, struct edge_vip);
	__uint(max_entries, MAX_EDGE_VIPS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_vips SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct edge_link);
	__uint(max_entries, MAX_EDGE_LINKS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_links SEC(".maps");

/*
 * A VIP as it was found last: comparing with it takes a third of the time that a hash map does. It
 * holds while its generation is that of edge_generation.
 */
struct edge_cached {
	struct edge_vip_key key;
	struct edge_vip vip;
	__u32 generation;
	__u32 pad;
};

/* Programs write, index a hash of the key; nobody else reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct edge_cached);
	__uint(max_entries, EDGE_CACHE);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_cache SEC(".maps");

/* How a node was reached last. */
struct edge_hop {
	struct addr node; /* 0: none */
	__u32 ingress; /* interface that packets came in by: rules may tell ways by it */
	__u32 egress;
	__u8 macs[12]; /* to, from, as in a frame */
	__u32 pad;
	__u64 until; /* bpf_jiffies64; then the kernel's tables are asked anew */
	__u64 ask; /* then one packet goes the kernel's way, which asks the neighbour */
};

/* XDP writes, index a hash of the node; nobody else reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct edge_hop);
	__uint(max_entries, EDGE_HOPS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_hops SEC(".maps");

/* Go writes: one more after each change of edge_vips, and never 0. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_generation SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct edge_slot);
	__uint(max_entries, MAX_EDGE_SLOTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_slots SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct edge_backend);
	__uint(max_entries, MAX_EDGE_BACKENDS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_backends SEC(".maps");

/* Programs write; Go forgets what no change needs any more. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct edge_flow_key);
	__type(value, struct edge_flow);
	__uint(max_entries, MAX_EDGE_FLOWS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_flows SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct edge_connection_key);
	__type(value, __u32);
	__uint(max_entries, MAX_EDGE_BACKENDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_connections SEC(".maps");

/* How much of this second's room to learn a CPU has used. */
struct edge_learning {
	__u64 since; /* bpf_ktime_get_coarse_ns */
	__u32 flows;
	__u32 pad;
};

/* Programs write; nobody else reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct edge_learning);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} edge_learnings SEC(".maps");
