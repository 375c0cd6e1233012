/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * On nodes that take in clients from outside of every network (docs/decisions/0008). Addresses of
 * the rows below are as the client sees them; a VIP at the edge has no VNI, its backends have.
 */

#include "shared/vip.h"

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
	EDGE_VIP_QUIC = 1 << 1, /* connection ids may name a backend: edge_connections knows them */
	EDGE_VIP_LED = 1 << 2, /* of an address: this node answers the neighbours who ask for it */
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

/* edge_links: interface index -> what neighbours are told. Go writes. */
struct edge_link {
	__u8 mac[6];
	__u8 pad[2];
};

_Static_assert(sizeof(struct edge_link) == 8, "edge_link");

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

enum edge_backend_flags {
	EDGE_BACKEND_SECOND_PORT = 1 << 0, /* the first tunnel port does not reach the node */
};

/* edge_backends: array. Go writes. */
struct edge_backend {
	struct addr vtep; /* underlay address of the task's node; 0: there is no such backend */
	__u32 vni;
	__u8 task[8]; /* last half of the task's address: the node knows the first */
	__u16 mtu; /* largest inner IP packet towards that node, bytes */
	__u16 flags; /* enum edge_backend_flags */
};

_Static_assert(sizeof(struct edge_backend) == 32, "edge_backend");

/*
 * edge_connections: QUIC connection ids that servers of the VIP choose -> index of edge_backends.
 * As draft-ietf-quic-load-balancers 5.2 in plain text, configuration 0: a byte whose upper three
 * bits are 0, then the 8 bytes of the server, then what the server likes. Go writes.
 */
struct edge_connection_key {
	struct edge_vip_key vip;
	__u8 task[8]; /* last half of its address, 128 bit */
};

_Static_assert(sizeof(struct edge_connection_key) == 28, "edge_connection_key");

/*
 * relays: (VNI, published address) -> anything but 0. What tasks of the network answer from the
 * address comes back to this edge node, which sends it to the client (docs/decisions/0020). Key:
 * struct endpoint_key. Go writes.
 */

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

/*
 * On the nodes of the backends.
 *
 * served: what tasks of this node serve behind VIPs of the edge. A frame for a task that is not in
 * it goes nowhere. Go writes.
 */
struct edge_served_key {
	__u32 vni;
	struct edge_vip_key vip;
	__u8 task[8]; /* last half of its address, as inner MACs have it */
};

_Static_assert(sizeof(struct edge_served_key) == 32, "edge_served_key");

enum edge_served_flags {
	EDGE_SERVED_RELAYED = 1 << 0, /* answers go back by the edge node that asked */
};

struct edge_served {
	struct addr addr; /* the task's */
	__be16 port;
	__u16 flags; /* enum edge_served_flags */
};

_Static_assert(sizeof(struct edge_served) == 20, "edge_served");
