/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* VIPs at the socket: what sockets see, and what is remembered of them. */

#include "shared/vip.h"

/* spaces: network namespace cookie (u64) -> which VIPs its sockets see. Go writes. */
struct space {
	__u32 vni; /* VNI_NODES: the node's own namespace */
	__u16 identity;
	__u16 pad;
	struct addr addr4; /* what its sockets connect from; 0: none of that family */
	struct addr addr6;
};

_Static_assert(sizeof(struct space) == 40, "space");

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

/* affinities: (VIP, client) -> backend. LRU, kernel writes. */
struct affinity_key {
	__u32 vip; /* id */
	struct addr client; /* of a socket: the cookie of its namespace */
};

_Static_assert(sizeof(struct affinity_key) == 20, "affinity_key");

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

/*
 * socket_vips: storage of a socket, gone with it: the VIP that it is connected to or, where it is
 * not connected, the one that it sent to last. Kernel writes.
 */
struct socket_vip {
	struct peer vip;
	struct peer backend;
	__u32 vip_id;
	__u32 backend_id;
	__u64 started; /* bpf_ktime_get_ns of the SYN */
	__u8 state; /* enum socket_state */
	__u8 timed_out;
	__u8 sends; /* it is not connected */
	__u8 pad;
	__u32 slot; /* of a backend that it sends to: where that was found last */
};

_Static_assert(sizeof(struct socket_vip) == 64, "socket_vip");
