/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Who opened a conversation. A flow is kept under the key of its opener's packets, by the opener's
 * node when they leave and, where the first packet does not tell an opener from an answerer (all
 * but TCP and ICMP), by the other's when they come: what answers must not pass for an opener, or a
 * conversation would outlive the permission it began with.
 */

#include "lib/maps.h"
#include "lib/packet.h"

enum {
	REFRESH_NS = 1000000000, /* how far behind `seen` may be */
};

#define FLOW_LIFE_NS	  (300ULL * 1000000000) /* RFC 4787 5 */
#define FRAGMENTS_LIFE_NS (30ULL * 1000000000) /* how long a stack waits for the rest */
#define FLOW_LIFE_TCP_NS  (7440ULL * 1000000000) /* RFC 5382 5: 2 hours and 4 minutes */

/* The protocol as rows have it: ICMP for both families. */
static __always_inline __u8 row_proto(const struct packet *p)
{
	return p->proto == PROTO_ICMPV6 ? PROTO_ICMP : p->proto;
}

static __always_inline void flow_of(const struct packet *p, struct flow_key *key)
{
	memset(key, 0, sizeof(*key));
	key->vni = p->vni;
	key->src = p->src;
	key->dst = p->dst;
	key->sport = p->sport;
	key->dport = p->dport;
	key->proto = row_proto(p);
}

/* The key of the flow that p answers. */
static __always_inline void answered_by(const struct packet *p, struct flow_key *key)
{
	memset(key, 0, sizeof(*key));
	key->vni = p->vni;
	key->src = p->dst;
	key->dst = p->src;
	key->sport = p->dport;
	key->dport = p->sport;
	key->proto = row_proto(p);
}

static __always_inline bool tells_opener(const struct packet *p)
{
	return p->proto == PROTO_TCP || is_icmp(p);
}

static __always_inline bool opens(const struct packet *p)
{
	if (p->proto == PROTO_TCP)
		return (p->tcp & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
	if (is_icmp(p))
		return p->icmp == (is_ipv4(p) ? ICMP_ECHO : ICMPV6_ECHO);
	return true;
}

/* Notes that the flow is in use; returns whether it is known. */
static __always_inline bool refresh(const struct flow_key *key, __u64 now)
{
	struct flow *f = bpf_map_lookup_elem(&flows, key);

	if (!f)
		return false;
	if (now - f->seen > REFRESH_NS)
		f->seen = now;
	return true;
}

/* A packet leaves a task whose network has rules, or for the world. */
static __always_inline void remember(const struct packet *p)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow flow = {.seen = now};
	struct flow_key key;

	if (p->fragment == FRAGMENT_LATER)
		return;
	flow_of(p, &key);
	if (refresh(&key, now) || !opens(p))
		return;
	if (!tells_opener(p)) {
		answered_by(p, &key);
		if (bpf_map_lookup_elem(&flows, &key))
			return;
		flow_of(p, &key);
	}
	bpf_map_update_elem(&flows, &key, &flow, BPF_ANY);
}

/* A packet that a verdict lets in comes to such a task. */
static __always_inline void heard(const struct packet *p)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow flow = {.seen = now};
	struct flow_key key;

	if (p->fragment == FRAGMENT_LATER || tells_opener(p))
		return;
	flow_of(p, &key);
	if (!refresh(&key, now))
		bpf_map_update_elem(&flows, &key, &flow, BPF_ANY);
}

/*
 * The fragments of one datagram know each other by its id, which is in place of the ports (RFC 791,
 * RFC 8200 4.5). Behind an IPv6 header the fragment header is the last one before the transport's.
 */
static __always_inline int datagram_of(struct __sk_buff *skb, const struct packet *p,
				       struct flow_key *key)
{
	__u32 at = is_ipv4(p) ? p->l3 + __builtin_offsetof(struct ipv4, id) : p->l4 - 4;
	__be16 id[2] = {};

	if (bpf_skb_load_bytes(skb, at, id, sizeof(id)))
		return -1;
	memset(key, 0, sizeof(*key));
	key->vni = p->vni;
	key->src = p->src;
	key->dst = p->dst;
	key->sport = id[0];
	key->dport = is_ipv4(p) ? p->proto : id[1];
	key->proto = PROTO_FRAGMENT;
	return 0;
}

/*
 * A first fragment is let in: so will be the later ones, which do not say to what they belong.
 * Global: its key would not fit the caller's stack.
 */
__noinline int lead(struct __sk_buff *skb, const struct packet *p)
{
	struct flow flow = {.seen = bpf_ktime_get_coarse_ns()};
	struct flow_key key;

	if (!p || datagram_of(skb, p, &key))
		return -1;
	return bpf_map_update_elem(&flows, &key, &flow, BPF_ANY);
}

static __always_inline __u64 life_of(const struct flow_key *key)
{
	if (key->proto == PROTO_TCP)
		return FLOW_LIFE_TCP_NS;
	return key->proto == PROTO_FRAGMENT ? FRAGMENTS_LIFE_NS : FLOW_LIFE_NS;
}

static __always_inline bool is_alive(const struct flow_key *key)
{
	struct flow *f = bpf_map_lookup_elem(&flows, key);
	__u64 life = life_of(key);

	/* seen may be ahead of a coarse clock */
	return f && (__s64)(bpf_ktime_get_coarse_ns() - f->seen) < (__s64)life;
}

static __always_inline bool is_icmp_error(const struct packet *p)
{
	if (is_ipv4(p))
		return p->icmp == ICMP_UNREACHABLE || p->icmp == ICMP_TIME_EXCEEDED ||
		       p->icmp == ICMP_PARAMETER;
	return p->icmp >= ICMPV6_UNREACHABLE && p->icmp <= ICMPV6_PARAMETER;
}

/* Reads the packet that an ICMP error at offset at is about, as far as a flow's key goes. */
static __always_inline int quoted_flow(struct __sk_buff *skb, const struct packet *p,
				       struct flow_key *key)
{
	__u32 at = p->l4 + sizeof(struct icmp);
	__be16 ports[4];
	__u8 proto;

	if (is_ipv4(p)) {
		struct ipv4 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)) ||
		    ip.fragment & bpf_htons(IPV4_OFFSET))
			return -1;
		set_addr4(&key->src, ip.src);
		set_addr4(&key->dst, ip.dst);
		proto = ip.proto;
		at += (ip.version_ihl & 0xf) * 4;
	} else {
		struct ipv6 ip;

		if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
			return -1;
		memcpy(&key->src, ip.src, sizeof(key->src));
		memcpy(&key->dst, ip.dst, sizeof(key->dst));
		proto = ip.next;
		at += sizeof(ip);
	}
	if (bpf_skb_load_bytes(skb, at, ports, sizeof(ports)))
		return -1;
	key->proto = proto == PROTO_ICMPV6 ? PROTO_ICMP : proto;
	if (key->proto == PROTO_ICMP) { /* of an echo the id */
		key->sport = ports[2];
		key->dport = ports[2];
	} else if (proto == PROTO_TCP || proto == PROTO_UDP) {
		key->sport = ports[0];
		key->dport = ports[1];
	}
	return 0;
}

/*
 * Whether p answers what its receiver opened, or is the news that something the receiver opened did
 * not arrive, or belongs to a datagram whose first fragment was let in. Global: two look-ups and
 * two headers would not fit the caller's stack.
 */
__noinline int answers(struct __sk_buff *skb, const struct packet *p)
{
	struct flow_key key;

	if (!p)
		return false;
	if (p->fragment == FRAGMENT_LATER)
		return !datagram_of(skb, p, &key) && is_alive(&key);
	if (is_icmp(p) && is_icmp_error(p)) {
		memset(&key, 0, sizeof(key));
		key.vni = p->vni;
		if (quoted_flow(skb, p, &key) || !same_addr(&key.src, &p->dst))
			return false;
		return is_alive(&key);
	}
	if (is_icmp(p) && opens(p)) /* in both directions an echo has the same ports */
		return false;
	answered_by(p, &key);
	return is_alive(&key);
}
