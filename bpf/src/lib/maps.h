/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Every map, pinned by its name in the folder of LAYOUT_VERSION. Rows are explained in rows.h;
 * here: how many, who writes, and why this kind. Every object declares all of them; pinned, they
 * are one.
 *
 * Hash maps are preallocated where the packet path looks them up and the size is small; the large
 * ones that only Go writes are not, for most nodes fill a fraction of them.
 */

#include "headers/kernel.h"
#include "shared/reason.h"
#include "shared/rows.h"

enum {
	MAX_WORKLOADS = 8192,
	MAX_ENDPOINTS = 2 * MAX_WORKLOADS, /* two families */
	MAX_BLOCKS = 262144, /* nodes x networks x families */
	MAX_PREFIXES = 8192,
	MAX_VTEPS = 16384,
	MAX_VERDICTS = 1048576,
	MAX_CLAUSES = 262144,
	MAX_SOURCES = 16384,
	MAX_FLOWS = 262144,
	MAX_ATTEMPTS = 65536,
	MAX_OPENINGS = 65536,
	MAX_DATAGRAMS = 16384,
	MAX_OPENER_LINKS = 4096, /* links whose indexes are equal modulo this share a budget */
	MAX_VIPS = 131072, /* each in its network, and once for the nodes' own sockets */
	MAX_BACKENDS = 524288,
	MAX_MAGLEVS = 16384, /* 128 MiB; each takes 8 KiB when it is there */
	MAX_USED_BACKENDS = 65536, /* those that this node's tasks connect to */
	MAX_AFFINITIES = 65536,
	MAX_SPACES = MAX_WORKLOADS,
	MAX_SOCKET_PEERS = 65536,
	MAX_TRANSLATIONS = 131072,
	MAX_VIP_LINKS = 4096, /* links whose indexes are equal modulo this share an entry */
	MAX_SERVED = 65536,
	MAX_RELAYS = 65536,
	MAX_CLIENT_ANSWERS = 131072,
	MAX_CLIENT_ATTEMPTS = 32768,
	MAX_DNS_ANSWERS = 65536,
	MAX_DNS_LONG = 32768,
	MAX_TRACES = 256,
	EVENT_BYTES = 1 << 20, /* 10,000 events and more before a slow reader loses some */
};

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct workload);
	__uint(max_entries, MAX_WORKLOADS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} workloads SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct endpoint_key);
	__type(value, struct endpoint);
	__uint(max_entries, MAX_ENDPOINTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} endpoints SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct block_key);
	__type(value, struct block);
	__uint(max_entries, MAX_BLOCKS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} blocks SEC(".maps");

/* Go writes. Asked only where blocks had no answer: a trie is several times slower than a hash. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix_key);
	__type(value, struct prefix);
	__uint(max_entries, MAX_PREFIXES);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* the kernel asks for it */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} prefixes SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr);
	__type(value, struct vtep);
	__uint(max_entries, MAX_VTEPS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vteps SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct verdict_key);
	__type(value, struct verdict);
	__uint(max_entries, MAX_VERDICTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} verdicts SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct clauses_key);
	__type(value, struct clauses);
	__uint(max_entries, MAX_CLAUSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} clauses SEC(".maps");

/* Go writes. Asked for packets of the world alone, and only where rules name addresses. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct source_key);
	__type(value, struct source);
	__uint(max_entries, MAX_SOURCES);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* the kernel asks for it */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} sources SEC(".maps");

/*
 * Programs write. LRU: a task that opens more than fits loses its own oldest and nobody's traffic
 * stops for want of memory. What is answered is kept apart, so that what is not can't push it out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, MAX_FLOWS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows SEC(".maps");

/* Programs write. LRU as flows. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, MAX_ATTEMPTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} attempts SEC(".maps");

/* Programs write. LRU as flows. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, MAX_DATAGRAMS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} datagrams SEC(".maps");

/* Programs write, index 2 * (ifindex % MAX_OPENER_LINKS) + whether others do. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct opener);
	__uint(max_entries, 2 * MAX_OPENER_LINKS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} openers SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct opening_key);
	__type(value, struct opening);
	__uint(max_entries, MAX_OPENINGS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} openings SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct vip_key);
	__type(value, struct vip);
	__uint(max_entries, MAX_VIPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vips SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct backend_key);
	__type(value, struct backend);
	__uint(max_entries, MAX_BACKENDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} backends SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct maglev);
	__uint(max_entries, MAX_MAGLEVS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} maglevs SEC(".maps");

/*
 * Programs write, at the first connection; Go forgets what is gone. Shared by all CPUs: a choice
 * wants to know of all connections. Two additions a connection are no burden, beside the rest of
 * it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct feedback);
	__uint(max_entries, MAX_USED_BACKENDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} feedbacks SEC(".maps");

/* Programs write, Go forgets what is gone. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct load);
	__uint(max_entries, MAX_VIPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} loads SEC(".maps");

/* Programs write; Go adds up and forgets what is gone. Nothing is chosen by it, so it is per CPU.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__type(key, __u32);
	__type(value, struct tally);
	__uint(max_entries, MAX_USED_BACKENDS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} tallies SEC(".maps");

/* Programs write. LRU: a client that was not seen for long finds another backend. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
	__uint(max_entries, MAX_AFFINITIES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} affinities SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64);
	__type(value, struct space);
	__uint(max_entries, MAX_SPACES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} spaces SEC(".maps");

/* Programs write. LRU: sockets that are not connected tell nobody when they are done. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct socket_peer_key);
	__type(value, struct socket_peer);
	__uint(max_entries, MAX_SOCKET_PEERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} socket_peers SEC(".maps");

/* Programs write; an entry lives as long as its socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct socket_vip);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* the kernel asks for it */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} socket_vips SEC(".maps");

/* Programs write. LRU as flows; the key is the packet as it is met (struct flow_key). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct translation);
	__uint(max_entries, MAX_TRANSLATIONS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} translations SEC(".maps");

enum vip_link {
	VIP_LINK_ASKS = 1 << 0, /* its task sent a packet to a VIP */
	VIP_LINK_SERVES = 1 << 1, /* its task was sent one by the edge */
};

/* Programs write: enum vip_link of link ifindex % MAX_VIP_LINKS, ever. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, MAX_VIP_LINKS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vip_links SEC(".maps");

/* Go writes. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct edge_served_key);
	__type(value, struct edge_served);
	__uint(max_entries, MAX_SERVED);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} served SEC(".maps");

/* Go writes, on edge nodes. Asked for what no task and no node has the address of. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct endpoint_key);
	__type(value, __u32);
	__uint(max_entries, MAX_RELAYS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} relays SEC(".maps");

/*
 * Answers of tasks to clients of the edge, keyed as they leave the task -> the VIP that they come
 * from. Programs write. LRU: each packet of the client makes its entry anew. What a SYN alone made
 * is kept apart, so that a flood of them can't push out what goes on.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct translation);
	__uint(max_entries, MAX_CLIENT_ANSWERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} client_answers SEC(".maps");

/* Programs write. LRU as client_answers. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct translation);
	__uint(max_entries, MAX_CLIENT_ATTEMPTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} client_attempts SEC(".maps");

/* Go writes. LRU: what is asked stays. An answer that fits a row is here. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct dns_key);
	__type(value, struct dns_answer);
	__uint(max_entries, MAX_DNS_ANSWERS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} dns_answers SEC(".maps");

/*
 * Go writes. LRU as dns_answers, for what does not fit there: with rows of one size for all a
 * question for an address took more lines of the cache. Half as many: who asks for both families of
 * a name that has one gets an address, and that there is no such record, which is long.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct dns_key);
	__type(value, struct dns_long);
	__uint(max_entries, MAX_DNS_LONG);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} dns_long SEC(".maps");

/* Programs write, index enum reason. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counter);
	__uint(max_entries, REASON_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} counters SEC(".maps");

/* Programs write, Go reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_BYTES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events SEC(".maps");

/* Go writes, programs count down `left`. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct trace_key);
	__type(value, struct trace);
	__uint(max_entries, MAX_TRACES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} traces SEC(".maps");

/* How much of this second's events a reason has used. */
struct sample {
	__u64 since; /* bpf_ktime_get_ns */
	__u32 events;
	__u32 pad;
};

/* Programs write, index enum reason; nobody else reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct sample);
	__uint(max_entries, REASON_MAX);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} samples SEC(".maps");
