/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What the kernel promises to programs: contexts, return values, flags. Own declarations of a
 * stable ABI, so that the build needs no kernel headers and gives the same bytes everywhere.
 */

#include "shared/types.h"

#define SEC(name)	__attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __noinline	__attribute__((noinline))

/* Members of a map definition: a number as an array's length, a type as a pointer. */
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name

#ifndef NULL
#define NULL ((void *)0)
#endif

typedef _Bool bool;
enum {
	false = 0,
	true = 1,
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "objects are built for little endian");

#define bpf_htons(x) ((__be16)__builtin_bswap16((__u16)(x)))
#define bpf_ntohs(x) ((__u16)__builtin_bswap16((__be16)(x)))
#define bpf_htonl(x) ((__be32)__builtin_bswap32((__u32)(x)))
#define bpf_ntohl(x) ((__u32)__builtin_bswap32((__be32)(x)))

/* ---- contexts ------------------------------------------------------------------------------ */

struct bpf_flow_keys;

struct bpf_sock {
	__u32 bound_dev_if;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 mark;
	__u32 priority;
	__be32 src_ip4;
	__be32 src_ip6[4];
	__u32 src_port;
	__be16 dst_port;
	__u16 pad;
	__be32 dst_ip4;
	__be32 dst_ip6[4];
	__u32 state;
	__s32 rx_queue_mapping;
};

/* A packet, as tcx and cls_bpf programs get it. data and data_end are addresses in 32 bits. */
struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol; /* network order */
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex; /* 0: made on this host */
	__u32 ifindex;
	__u32 tc_index;
	__u32 cb[5];
	__u32 hash;
	__u32 tc_classid;
	__u32 data;
	__u32 data_end;
	__u32 napi_id;
	__u32 family;
	__be32 remote_ip4;
	__be32 local_ip4;
	__be32 remote_ip6[4];
	__be32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 data_meta;
	struct bpf_flow_keys *flow_keys __attribute__((aligned(8)));
	__u64 tstamp;
	__u32 wire_len;
	__u32 gso_segs;
	struct bpf_sock *sk __attribute__((aligned(8)));
	__u32 gso_size; /* 0: no segmentation pending */
	__u8 tstamp_type;
	__u8 pad[3];
	__u64 hwtstamp;
};

_Static_assert(sizeof(struct __sk_buff) == 192, "__sk_buff");

/* A connect, sendmsg, recvmsg or getpeername of a socket. */
struct bpf_sock_addr {
	__u32 user_family;
	__be32 user_ip4;
	__be32 user_ip6[4];
	__u32 user_port; /* network order, in the low 16 bits */
	__u32 family;
	__u32 type;
	__u32 protocol;
	__be32 msg_src_ip4;
	__be32 msg_src_ip6[4];
	struct bpf_sock *sk __attribute__((aligned(8)));
};

_Static_assert(sizeof(struct bpf_sock_addr) == 72, "bpf_sock_addr");

/* A TCP socket, at one of the events of enum sock_ops. */
struct bpf_sock_ops {
	__u32 op;
	__u32 args[4];
	__u32 family;
	__be32 remote_ip4;
	__be32 local_ip4;
	__be32 remote_ip6[4];
	__be32 local_ip6[4];
	__u32 remote_port;
	__u32 local_port;
	__u32 is_fullsock;
	__u32 snd_cwnd;
	__u32 srtt_us;
	__u32 bpf_sock_ops_cb_flags;
	__u32 state;
	__u32 unused[19];
	__u64 bytes_received;
	__u64 bytes_acked;
	struct bpf_sock *sk __attribute__((aligned(8)));
};

_Static_assert(__builtin_offsetof(struct bpf_sock_ops, bytes_received) == 168, "bytes_received");
_Static_assert(__builtin_offsetof(struct bpf_sock_ops, sk) == 184, "sk");

enum sock_ops {
	BPF_SOCK_OPS_TCP_CONNECT_CB = 3, /* the SYN is about to be sent */
	BPF_SOCK_OPS_RTO_CB = 8, /* nobody answered in time */
	BPF_SOCK_OPS_STATE_CB = 10, /* args: old state, new state */

	/* which events a socket is asked to tell */
	BPF_SOCK_OPS_RTO_CB_FLAG = 1 << 0,
	BPF_SOCK_OPS_STATE_CB_FLAG = 1 << 2,
};

enum tcp_state {
	TCP_STATE_ESTABLISHED = 1,
	TCP_STATE_SYN_SENT = 2,
	TCP_STATE_CLOSE = 7,
};

/* Outer header of a packet that the kernel's tunnel device took off or will put on. */
struct bpf_tunnel_key {
	__u32 tunnel_id;
	union {
		__u32 remote_ipv4; /* host order */
		__be32 remote_ipv6[4];
	};
	__u8 tunnel_tos;
	__u8 tunnel_ttl;
	__be16 tunnel_flags;
	__u32 tunnel_label;
	union {
		__u32 local_ipv4; /* host order */
		__be32 local_ipv6[4];
	};
};

_Static_assert(sizeof(struct bpf_tunnel_key) == 44, "bpf_tunnel_key");

/* Next hop of bpf_redirect_neigh; NULL in its place means: look it up. */
struct bpf_redir_neigh {
	__u32 nh_family;
	union {
		__be32 ipv4_nh;
		__u32 ipv6_nh[4];
	};
};

/* ---- return values of packet programs ------------------------------------------------------ */

enum tcx_action {
	TCX_NEXT =
		-1, /* the next program, in the end the stack; TC_ACT_UNSPEC on clsact: the same */
	TCX_PASS = 0,
	TCX_DROP = 2,
	TCX_REDIRECT = 7,
};

enum packet_type {
	PACKET_HOST = 0,
	PACKET_BROADCAST = 1,
	PACKET_MULTICAST = 2,
	PACKET_OTHERHOST = 3,
};

/* ---- map types and flags ------------------------------------------------------------------- */

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LRU_PERCPU_HASH = 10,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_SK_STORAGE = 24,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,

	BPF_F_NO_PREALLOC = 1 << 0,

	/* pinning of a map definition */
	LIBBPF_PIN_NONE = 0,
	LIBBPF_PIN_BY_NAME = 1,
};

/* ---- flags of helpers ---------------------------------------------------------------------- */

enum {
	/* bpf_skb_store_bytes, bpf_l4_csum_replace */
	BPF_F_RECOMPUTE_CSUM = 1 << 0,
	BPF_F_INVALIDATE_HASH = 1 << 1,
	BPF_F_HDR_FIELD_MASK = 0xf, /* size of the field that changed */
	BPF_F_PSEUDO_HDR = 1 << 4,
	BPF_F_MARK_MANGLED_0 = 1 << 5,
	BPF_F_MARK_ENFORCE = 1 << 6,

	/* bpf_skb_set_tunnel_key */
	BPF_F_TUNINFO_IPV6 = 1 << 0,
	BPF_F_ZERO_CSUM_TX = 1 << 1,
	BPF_F_DONT_FRAGMENT = 1 << 2,

	/* bpf_skb_adjust_room: where the room is, then flags */
	BPF_ADJ_ROOM_NET = 0,
	BPF_ADJ_ROOM_MAC = 1,

	/* bpf_redirect */
	BPF_F_INGRESS = 1 << 0,

	/* bpf_ringbuf_submit */
	BPF_RB_NO_WAKEUP = 1 << 0,
	BPF_RB_FORCE_WAKEUP = 1 << 1,

	/* bpf_sk_storage_get */
	BPF_SK_STORAGE_GET_F_CREATE = 1 << 0,
};

#define BPF_F_ADJ_ROOM_FIXED_GSO       (1ULL << 0)
#define BPF_F_ADJ_ROOM_ENCAP_L3_IPV4   (1ULL << 1)
#define BPF_F_ADJ_ROOM_ENCAP_L3_IPV6   (1ULL << 2)
#define BPF_F_ADJ_ROOM_ENCAP_L4_UDP    (1ULL << 4)
#define BPF_F_ADJ_ROOM_NO_CSUM_RESET   (1ULL << 5)
#define BPF_F_ADJ_ROOM_ENCAP_L2_ETH    (1ULL << 6)
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4   (1ULL << 7) /* Linux 6.3 */
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6   (1ULL << 8) /* Linux 6.3 */
#define BPF_F_ADJ_ROOM_ENCAP_L2(bytes) ((__u64)(bytes) << 56)

/* ---- errors and sockets -------------------------------------------------------------------- */

enum {
	EPERM = 1,
	EINVAL = 22,
	ECONNREFUSED = 111,
};

enum {
	AF_INET = 2,
	AF_INET6 = 10,

	SOCK_STREAM = 1,
	SOCK_DGRAM = 2,
};
