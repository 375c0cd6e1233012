/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Headers of packets as they are on the wire, named after the RFCs' fields. */

#include "shared/types.h"

/*
 * Nothing between the fields, and each at an even offset from where the frame begins: packed alone
 * would have clang read and write byte by byte.
 */
#define WIRE __attribute__((packed, aligned(2)))

enum ethertype {
	ETHERTYPE_IPV4 = 0x0800,
	ETHERTYPE_ARP = 0x0806,
	ETHERTYPE_VLAN = 0x8100,
	ETHERTYPE_IPV6 = 0x86dd,
};

struct ethernet {
	__u8 dst[6];
	__u8 src[6];
	__be16 type;
} WIRE;

/* RFC 826, for IPv4 over Ethernet. */
struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__be32 sender;
	__u8 target_mac[6];
	__be32 target;
} WIRE;

enum {
	ARP_ETHERNET = 1,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
};

enum ip_proto {
	PROTO_HOPOPTS = 0,
	PROTO_ICMP = 1,
	PROTO_IGMP = 2,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_ICMPV6 = 58,
	PROTO_NONE = 59,
	PROTO_DSTOPTS = 60,
};

/* RFC 791. */
struct ipv4 {
	__u8 version_ihl;
	__u8 tos;
	__be16 total_len;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__be16 checksum;
	__be32 src;
	__be32 dst;
} WIRE;

enum {
	IPV4_DF = 0x4000,
	IPV4_MF = 0x2000,
	IPV4_OFFSET = 0x1fff,
	ECN_MASK = 3,
	ECN_CE = 3,
};

/* RFC 8200. */
struct ipv6 {
	__be32 version_class_flow;
	__be16 payload_len;
	__u8 next;
	__u8 hop_limit;
	__u8 src[16];
	__u8 dst[16];
} WIRE;

/* The first bytes of an extension header; a fragment header has its offset in bytes 2 and 3. */
struct ipv6_extension {
	__u8 next;
	__u8 len; /* in 8 bytes, less the first 8 */
	__be16 fragment;
	__be32 id;
} WIRE;

enum {
	IPV6_OFFSET = 0xfff8,
	IPV6_MF = 1,
};

struct udp {
	__be16 sport;
	__be16 dport;
	__be16 len;
	__be16 checksum;
} WIRE;

/* RFC 9293. */
struct tcp {
	__be16 sport;
	__be16 dport;
	__be32 seq;
	__be32 ack;
	__u8 offset; /* in 4 bytes, in the high half */
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
} WIRE;

enum {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_PSH = 0x08,
	TCP_ACK = 0x10,
};

/* RFC 792 and RFC 4443; rest is id and sequence of an echo, the MTU of an error. */
struct icmp {
	__u8 type;
	__u8 code;
	__be16 checksum;
	union {
		struct {
			__be16 id;
			__be16 sequence;
		};
		__be32 rest;
	};
} WIRE;

enum icmp_type {
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_FRAGMENTATION_NEEDED = 4, /* code of ICMP_UNREACHABLE */
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER = 12,
};

enum icmpv6_type {
	ICMPV6_UNREACHABLE = 1,
	ICMPV6_TOO_BIG = 2,
	ICMPV6_TIME_EXCEEDED = 3,
	ICMPV6_PARAMETER = 4,
	ICMPV6_ECHO = 128,
	ICMPV6_ECHO_REPLY = 129,
	ICMPV6_MLD_QUERY = 130,
	ICMPV6_MLD_DONE = 132,
	ICMPV6_ROUTER_SOLICIT = 133,
	ICMPV6_ROUTER_ADVERT = 134,
	ICMPV6_NEIGHBOUR_SOLICIT = 135,
	ICMPV6_NEIGHBOUR_ADVERT = 136,
	ICMPV6_REDIRECT = 137,
	ICMPV6_MLD2_REPORT = 143,
};

/* RFC 4861: a neighbour solicitation or advertisement, and one link-layer address option. */
struct neighbour {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	__u8 target[16];
	__u8 option;
	__u8 option_len; /* in 8 bytes */
	__u8 mac[6];
} WIRE;

enum {
	ND_ROUTER_SOLICITED_OVERRIDE = 0xe0000000,
	ND_TARGET_MAC = 2,
	ND_HOP_LIMIT = 255, /* what was not on this link has less */
};

/* RFC 7348 with the group policy extension (draft-smith-vxlan-group-policy). */
struct vxlan {
	__u8 flags;
	__u8 policy_flags;
	__be16 policy;
	__be32 vni; /* in the high 24 bits */
} WIRE;

enum {
	VXLAN_HAS_VNI = 0x08,
	VXLAN_HAS_POLICY = 0x80,
};

_Static_assert(sizeof(struct ethernet) == 14, "ethernet");
_Static_assert(sizeof(struct arp) == 28, "arp");
_Static_assert(sizeof(struct ipv4) == 20, "ipv4");
_Static_assert(sizeof(struct ipv6) == 40, "ipv6");
_Static_assert(sizeof(struct udp) == 8, "udp");
_Static_assert(sizeof(struct tcp) == 20, "tcp");
_Static_assert(sizeof(struct icmp) == 8, "icmp");
_Static_assert(sizeof(struct neighbour) == 32, "neighbour");
_Static_assert(sizeof(struct vxlan) == 8, "vxlan");
