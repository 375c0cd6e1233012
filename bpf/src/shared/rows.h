/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * The rows of every pinned map, as C sees them and as Go sees them: bpf/row is generated from this
 * file (make generate), so no layout is kept by hand twice.
 *
 * Rules: no implicit padding (pad fields are named and must be zero, they are part of hash keys);
 * addresses are 128 bit, IPv4 as ::ffff:a.b.c.d; __be16 and __be32 are in network order, all else
 * is in host order. A changed layout needs a new LAYOUT_VERSION: it names the pin directory.
 */

#include "types.h"

enum layout {
	LAYOUT_VERSION = 2,
};

/* 4-byte aligned so that copies and compares are done by words. */
struct addr {
	__u8 bytes[16];
} __attribute__((aligned(4)));

/*
 * Who a packet is from or to, within one network (VNI). Travels in the VXLAN group policy field.
 * Identities from IDENTITY_FIRST on are sets of groups, numbered by the master.
 */
enum identity {
	IDENTITY_NONE = 0, /* the frame carries none: a VXLAN sender that is not ours */
	IDENTITY_WORLD = 1, /* outside of every network */
	IDENTITY_NODE = 2, /* the task's own node */
	IDENTITY_UNGROUPED = 3, /* a task without groups */
	IDENTITY_FIRST = 16,
};

/* ---- tasks of this node -------------------------------------------------------------------- */

enum workload_flags {
	WORKLOAD_DIRECTED =
		1 << 0, /* its network has rules or public: what it opens is remembered */
};

/* workloads: host-side ifindex (u32) -> who sends on that link. Go writes. */
struct workload {
	__u32 vni;
	__u16 identity;
	__u16 mtu; /* of the task's link: largest inner IP packet, bytes */
	__u32 flags;
	__u8 mac[6];
	__u8 block4; /* prefix length of a node's IPv4 block in this network, 0: no IPv4 */
	__u8 block6; /* the same for IPv6, 0: no IPv6 */
	struct addr addr4; /* zero: none */
	struct addr addr6;
};

_Static_assert(sizeof(struct workload) == 52, "workload");

struct endpoint_key {
	__u32 vni;
	struct addr addr;
};

_Static_assert(sizeof(struct endpoint_key) == 20, "endpoint_key");

enum endpoint_flags {
	ENDPOINT_PREFIXED = 1 << 0, /* rules towards it name addresses of the world: ask sources */
};

/* endpoints: address of a task of this node -> its link. Go writes. */
struct endpoint {
	__u32 ifindex; /* host side */
	__u16 identity;
	__u16 flags;
	__u8 mac[6];
	__u8 pad[2];
};

_Static_assert(sizeof(struct endpoint) == 16, "endpoint");

/* ---- where addresses live ------------------------------------------------------------------ */

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

/* ---- who may talk -------------------------------------------------------------------------- */

enum verdict_source {
	VERDICT_PREFIX = 1U << 31, /* with it, verdict_key.src is a value of sources */
};

/*
 * verdicts: (src, dst) pairs of a network, compiled for the identities of this node's tasks. One
 * look-up, whatever the number of groups and rules; no row is a drop. Go writes.
 */
struct verdict_key {
	__u32 vni;
	__u32 src; /* enum identity, or enum verdict_source */
	__u32 dst; /* enum identity */
};

_Static_assert(sizeof(struct verdict_key) == 12, "verdict_key");

enum verdict_action {
	VERDICT_DENY = 0,
	VERDICT_ALLOW = 1,
	VERDICT_AUDIT = 2, /* would be denied: pass, count and report */
	VERDICT_NONE = 3, /* neither groups nor rules say anything: a drop */
	VERDICT_PAGE = 4, /* of a clause: rule is the page that goes on */
};

struct verdict {
	__u64 clauses; /* id of clauses, if protocol and port decide; 0: what follows holds for all
			*/
	__u32 rule; /* id of the rule that decided, 0: common groups */
	__u8 action;
	__u8 pad[3];
};

_Static_assert(sizeof(struct verdict) == 16, "verdict");

/*
 * What a verdict says of (protocol, port) from start on, up to the next clause's start. A range of
 * ports takes two clauses, however wide it is.
 */
struct clause {
	__u32 start; /* protocol << 24 | port << 8 | enum verdict_action, host order */
	__u32 rule;
};

enum clauses_size {
	CLAUSES_MAX = 32, /* of a row */
};

/* ICMPv6 is asked for as ICMP (1); what has no ports, and later fragments, as port 0. */
struct clauses_key {
	__u64 id; /* hash of all pages: rows never change, equal verdicts share them */
	__u32 page; /* 0: the first, whose clauses may lead to others */
	__u32 pad;
};

_Static_assert(sizeof(struct clauses_key) == 16, "clauses_key");

/* clauses: ascending by start; the first row's first starts at 0. Go writes. */
struct clauses {
	__u32 count;
	__u32 pad;
	struct clause list[CLAUSES_MAX];
};

_Static_assert(sizeof(struct clauses) == 264, "clauses");

/* sources: LPM trie of the addresses of the world that rules of a network name. Go writes. */
struct source_key {
	__u32 len; /* 32 of the VNI and those of the 128-bit form: IPv4 /8 is 136 */
	__u32 vni;
	struct addr addr;
};

_Static_assert(sizeof(struct source_key) == 24, "source_key");

struct source {
	__u32 src; /* VERDICT_PREFIX | lowest id of the rules that name exactly this prefix */
};

/* ---- who opened ---------------------------------------------------------------------------- */

/*
 * What tasks of this node opened, so that replies come back where no verdict covers them; key as
 * the opener sent it. LRU, the kernel half writes, Go reads:
 *
 *   attempts   not answered yet, or closed by the opener: a flood of these hurts these alone
 *   flows      answered
 *   datagrams  first fragments that were let in, for the later ones: protocol 44, and the
 *              datagram's id in place of the ports
 */
struct flow_key {
	__u32 vni;
	struct addr src;
	struct addr dst;
	__be16 sport; /* ICMP echo: the id in both ports */
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};

_Static_assert(sizeof(struct flow_key) == 44, "flow_key");

enum flow_flags {
	FLOW_CLOSED = 1 << 0, /* the opener sent FIN or RST */
};

struct flow {
	__u64 seen; /* bpf_ktime_get_coarse_ns of a packet of the last second */
	__u32 flags;
	__u32 pad;
};

_Static_assert(sizeof(struct flow) == 16, "flow");

/*
 * openers: what a link may still add to attempts, so that one task's flood is its own harm. Array:
 * two entries a link, for what its task opens and for what others open towards it.
 */
struct opener {
	__u64 since; /* bpf_ktime_get_coarse_ns up to which `left` was filled */
	__s32 left; /* may be a little off: CPUs don't wait for each other */
	__u32 pad;
};

_Static_assert(sizeof(struct opener) == 16, "opener");

/* openings: ports of tasks that a port of the node leads to, so open to the world. Go writes. */
struct opening_key {
	__u32 vni;
	struct addr addr; /* of the task */
	__be16 port;
	__u8 proto;
	__u8 pad;
};

_Static_assert(sizeof(struct opening_key) == 24, "opening_key");

struct opening {
	__u16 host_port; /* of the node; of several the lowest */
	__u16 pad;
};

_Static_assert(sizeof(struct opening) == 4, "opening");

/* ---- VIPs ---------------------------------------------------------------------------------- */

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
 * feedbacks: backend id -> what this node's connections to it came to. The kernel half writes; Go
 * reads, and forgets backends that went.
 */
struct feedback {
	__u64 measured; /* bpf_ktime_get_ns of latency; it halves by the second */
	__u64 waiting; /* since when connects are out and none was answered */
	__u64 barred; /* until when it gets nothing new, 0: it may */
	__u64 tried; /* when it was chosen last while on trial */
	__u32 latency; /* ns, of connects and short connections; 0: none yet */
	__s32 in_flight; /* connections of this node; below 0 after a restart in their midst */
	__s32 connecting; /* those not yet answered */
	__u32 failures; /* in a row */
};

_Static_assert(sizeof(struct feedback) == 48, "feedback");

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

/* affinities: (VIP, client) -> backend. LRU, kernel writes. */
struct affinity_key {
	__u32 vip; /* id */
	struct addr client; /* of a socket: the cookie of its namespace */
};

_Static_assert(sizeof(struct affinity_key) == 20, "affinity_key");

/* spaces: network namespace cookie (u64) -> which VIPs its sockets see. Go writes. */
struct space {
	__u32 vni;
	__u16 identity;
	__u16 pad;
};

/* An address and port, as sockets and translations remember them. */
struct peer {
	struct addr addr;
	__be16 port;
	__u16 pad;
};

/*
 * socket_peers: what a UDP socket that is not connected sends to and hears from. Two entries:
 * (socket, VIP) -> backend keeps it at one backend, (socket, backend) -> VIP names the sender of
 * what it hears. LRU, kernel writes.
 */
struct socket_peer_key {
	__u64 cookie;
	struct peer peer;
	__u32 pad;
};

_Static_assert(sizeof(struct socket_peer_key) == 32, "socket_peer_key");

struct socket_peer {
	struct peer to;
	__u32 slot; /* of a backend: where it was found last */
};

_Static_assert(sizeof(struct socket_peer) == 24, "socket_peer");

struct affinity {
	struct socket_peer backend;
	__u64 seen; /* bpf_ktime_get_ns of the client's last connection */
};

_Static_assert(sizeof(struct affinity) == 32, "affinity");

enum socket_state {
	SOCKET_IDLE = 0, /* not counted: UDP, not connected yet, or done */
	SOCKET_CONNECTING = 1,
	SOCKET_OPEN = 2,
};

/* socket_vips: storage of a connected socket, gone with it. Kernel writes. */
struct socket_vip {
	struct peer vip;
	struct peer backend;
	__u32 vip_id;
	__u32 backend_id;
	__u64 started; /* bpf_ktime_get_ns of the SYN */
	__u8 state; /* enum socket_state */
	__u8 timed_out;
	__u8 pad[6];
};

_Static_assert(sizeof(struct socket_vip) == 64, "socket_vip");

/*
 * translations: per-packet VIPs. LRU, kernel writes. Two entries a flow, both keyed by the packet
 * as it is met: (task, VIP) -> backend on the way out, (backend, task) -> VIP on the way in.
 */
struct translation {
	struct peer to;
	__u32 slot; /* of a backend: where it was found last */
	__u64 since; /* bpf_ktime_get_ns of the first packet */
};

_Static_assert(sizeof(struct translation) == 32, "translation");

/* ---- VIPs of the edge ------------------------------------------------------------------------ */

/*
 * On nodes that take in clients from outside of every network (docs/decisions/0008). Addresses of
 * the rows below are as the client sees them; a VIP at the edge has no VNI, its backends have.
 */

/* Port and protocol 0: the row says of the address that it is VIPs' alone. */
struct edge_vip_key {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

_Static_assert(sizeof(struct edge_vip_key) == 20, "edge_vip_key");

enum edge_vip_flags {
	EDGE_VIP_AFFINITY = 1 << 0, /* all flows of a client address go to one backend */
};

/* edge_vips: Go writes. */
struct edge_vip {
	__u32 first; /* its slots are edge_slots[first .. first+slots-1] */
	__u32 slots; /* 0: no backend, or no VIP but an address */
	__u32 flags;
};

_Static_assert(sizeof(struct edge_vip) == 12, "edge_vip");

enum edge_slot_flags {
	EDGE_SLOT_KEPT = 1U << 31, /* in previous: edge_flows may know flows of this slot */
};

/*
 * edge_slots: array. Indexes of edge_backends. While the two differ, and while EDGE_SLOT_KEPT says
 * so, flows are looked up; else current takes all. Go writes both at once; a reader that sees one
 * of them new and the other old errs as if it had come before or after.
 */
struct edge_slot {
	__u32 current;
	__u32 previous;
};

_Static_assert(sizeof(struct edge_slot) == 8, "edge_slot");

/* edge_backends: array. Go writes. */
struct edge_backend {
	__u8 node[4]; /* underlay address of the task's node; 0: there is no such backend */
	__u32 vni;
	__u8 task[8]; /* last half of the task's address: the node knows the first */
	__u8 hop[6]; /* MAC of the next hop towards the node; 0: the kernel finds the way */
	__u16 mtu; /* largest inner IP packet towards that node, bytes */
};

_Static_assert(sizeof(struct edge_backend) == 24, "edge_backend");

/* edge_flows: what changes of slots must not move. LRU: the kernel half writes, Go reads. */
struct edge_flow_key {
	struct addr client;
	__be16 port; /* the client's */
	__u16 pad;
	struct edge_vip_key vip;
};

_Static_assert(sizeof(struct edge_flow_key) == 40, "edge_flow_key");

struct edge_flow {
	__u32 backend; /* index of edge_backends */
	__u32 pad;
	__u64 seen; /* bpf_ktime_get_coarse_ns of a packet of the last second */
};

_Static_assert(sizeof(struct edge_flow) == 16, "edge_flow");

/* ---- names --------------------------------------------------------------------------------- */

enum dns_size {
	DNS_DATA =
		448, /* bytes of resource records kept per answer; longer ones go to the server */
};

/* dns_answers: LRU; Go writes (answers learnt from misses), the kernel half reads. */
struct dns_key {
	__u64 hash[2]; /* of the lower-cased wire name, two independent seeds */
	__u32 vni; /* view of the asker, 0: host */
	__u16 qtype;
	__u16 len; /* of the wire name, bytes */
};

_Static_assert(sizeof(struct dns_key) == 24, "dns_key");

struct dns_answer {
	__u16 len; /* of data in use */
	__u8 rcode;
	__u8 rotate; /* bytes per answer record when all have one size: rotated per query; 0: no */
	__u16 ancount;
	__u16 nscount;
	__u16 arcount;
	__u16 mark; /* another one each time the row is written; with stamp it frames data */
	__u8 data[DNS_DATA]; /* records; names as compression pointers into the question */
	__u32 stamp; /* of hash[0] and mark (dns_sealed): a torn read is seen and passed on */
};

_Static_assert(sizeof(struct dns_answer) == 464, "dns_answer");

/* ---- seeing -------------------------------------------------------------------------------- */

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
