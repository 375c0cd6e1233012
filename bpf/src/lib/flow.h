/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Who opened a conversation. A flow is kept under the key of its opener's packets, by the opener's
 * node when they leave and, where the first packet does not tell an opener from an answerer (all
 * but TCP and ICMP), by the other's when they come: what answers must not pass for an opener, or a
 * conversation would outlive the permission it began with.
 *
 *   the first packet --> attempts --an answer--> flows --FIN or RST of the opener--> attempts
 *
 * Both are LRU. What nobody answers, and what is over, can push out its own kind alone, and each
 * task may add so much of it: the rest is sent all the same, its answers need a verdict.
 */

#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/takeover.h"

enum {
	REFRESH_NS = 1000000000, /* how far behind `seen` may be */
	ATTEMPTS_BURST = 8192, /* that a link may add and that are not answered yet */
	ATTEMPTS_SHIFT = 20, /* one more each 2^20 ns: 954 a second */
};

#define FLOW_LIFE_NS	  (300ULL * 1000000000) /* RFC 4787 5 */
#define ATTEMPT_LIFE_NS	  (240ULL * 1000000000) /* RFC 5382 5: transitory connections */
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

/* Whether the sender has no more to say. */
static __always_inline bool ends(const struct packet *p)
{
	return p->proto == PROTO_TCP && p->tcp & (TCP_FIN | TCP_RST);
}

static __always_inline bool starts_answer(const struct packet *p)
{
	if (p->proto == PROTO_TCP)
		return (p->tcp & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK);
	return is_icmp(p) && p->icmp == (is_ipv4(p) ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY);
}

/* seen may be ahead of a coarse clock. */
static __always_inline bool is_alive(const struct flow *f, __u64 life, __u64 now)
{
	return f && (__s64)(now - f->seen) < (__s64)life;
}

static __always_inline __u64 life_of(const struct flow_key *key)
{
	return key->proto == PROTO_TCP ? FLOW_LIFE_TCP_NS : FLOW_LIFE_NS;
}

/* The flow, if it is known, noted as being in use. */
static __always_inline struct flow *touch(void *map, const struct flow_key *key, __u64 now)
{
	struct flow *f = bpf_map_lookup_elem(map, key);

	if (f && now - f->seen > REFRESH_NS)
		f->seen = now;
	return f;
}

/* The entry of openers for what a link's task opens, or for what others open towards it. */
static __always_inline struct opener *opener_of(__u32 link, bool others)
{
	__u32 index = 2 * (link % MAX_OPENER_LINKS) + others;

	return bpf_map_lookup_elem(&openers, &index);
}

static __always_inline bool may_open(__u32 link, bool others, __u64 now)
{
	struct opener *o = opener_of(link, others);
	__u64 more;

	if (!o)
		return false;
	more = now > o->since ? (now - o->since) >> ATTEMPTS_SHIFT : 0;
	if (more > ATTEMPTS_BURST) {
		o->since = now;
		o->left = ATTEMPTS_BURST;
	} else if (more) {
		o->since += more << ATTEMPTS_SHIFT;
		o->left += more;
		if (o->left > ATTEMPTS_BURST)
			o->left = ATTEMPTS_BURST;
	}
	if (o->left <= 0)
		return false;
	o->left--;
	return true;
}

static __always_inline void open_flow(const struct flow_key *key, __u32 link, bool others,
				      __u64 now)
{
	struct flow flow = {.seen = now};

	if (may_open(link, others, now))
		bpf_map_update_elem(&attempts, key, &flow, BPF_ANY);
}

/* An attempt was answered: it is a flow, and its link may open another. */
static __always_inline void establish(const struct flow_key *key, __u32 link, bool others,
				      __u64 now)
{
	struct opener *o = opener_of(link, others);
	struct flow flow = {.seen = now};

	if (bpf_map_update_elem(&flows, key, &flow, BPF_ANY))
		return;
	bpf_map_delete_elem(&attempts, key);
	if (o && o->left < ATTEMPTS_BURST)
		o->left++;
}

/* What is left to be said needs seconds: it goes where it is no burden. */
static __always_inline void close_flow(const struct flow_key *key, __u64 now)
{
	struct flow flow = {.seen = now, .flags = FLOW_CLOSED};

	if (!bpf_map_update_elem(&attempts, key, &flow, BPF_ANY))
		bpf_map_delete_elem(&flows, key);
}

/*
 * Whether p, of a protocol that does not tell, answers what the other side opened; others: whether
 * that is an attempt towards of the link's task by others.
 */
static __always_inline bool is_reply(const struct packet *p, struct flow_key *key, __u32 link,
				     bool others, __u64 now)
{
	answered_by(p, key);
	if (is_alive(bpf_map_lookup_elem(&flows, key), FLOW_LIFE_NS, now))
		return true;
	if (!is_alive(bpf_map_lookup_elem(&attempts, key), ATTEMPT_LIFE_NS, now))
		return false;
	establish(key, link, others, now);
	return true;
}

/*
 * A packet leaves the task of a link whose network has rules, or for the world. One look-up where
 * the flow is known, or where TCP answers. Global: its key would not fit the caller's stack.
 */
__noinline int remember(const struct packet *p, __u32 link)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow_key key;
	struct flow *f;

	if (!p || p->fragment == FRAGMENT_LATER)
		return 0;
	flow_of(p, &key);
	if (touch(&flows, &key, now)) {
		if (ends(p))
			close_flow(&key, now);
		return 0;
	}
	if (!opens(p))
		return 0;
	if (!tells_opener(p)) {
		if (is_reply(p, &key, link, true, now))
			return 0;
		flow_of(p, &key);
	}
	f = touch(&attempts, &key, now);
	if (f)
		f->flags = 0; /* ports that are used again */
	else
		open_flow(&key, link, false, now);
	return 0;
}

/*
 * A verdict lets a packet in to the task of a link. Where what the task opens is remembered, others
 * open this one. Global as remember.
 */
__noinline int heard(const struct packet *p, __u32 link)
{
	const struct workload *w = bpf_map_lookup_elem(&workloads, &link);
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow_key key;

	if (!p || p->fragment == FRAGMENT_LATER || !w)
		return 0;
	/* What tasks send to processes of nodes is remembered always (leave). */
	if (!(w->flags & WORKLOAD_DIRECTED) && p->src_identity != IDENTITY_OTHER_NODE)
		return 0;
	if (tells_opener(p)) {
		answered_by(p, &key);
		if (starts_answer(p) && bpf_map_lookup_elem(&attempts, &key))
			establish(&key, link, false, now);
		return 0;
	}
	flow_of(p, &key);
	if (touch(&flows, &key, now) || is_reply(p, &key, link, false, now))
		return 0;
	flow_of(p, &key);
	if (!touch(&attempts, &key, now))
		open_flow(&key, link, true, now);
	return 0;
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
	return bpf_map_update_elem(&datagrams, &key, &flow, BPF_ANY);
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

/* Whether p answers an attempt; what only refuses it leaves it one. */
static __always_inline bool answers_attempt(const struct packet *p, const struct flow_key *key,
					    __u32 link, __u64 now)
{
	struct flow *f = bpf_map_lookup_elem(&attempts, key);

	if (!is_alive(f, ATTEMPT_LIFE_NS, now))
		return false;
	if (f->flags & FLOW_CLOSED) { /* by its opener: the other may go on */
		if (now - f->seen > REFRESH_NS)
			f->seen = now;
	} else if (p->proto != PROTO_TCP || (p->tcp & (TCP_ACK | TCP_RST)) == TCP_ACK) {
		establish(key, link, false, now);
	}
	return true;
}

/* Whether p may answer what a program of another layout let out. It opens nothing: who did not ask
 * refuses it. */
static __always_inline bool may_answer(const struct packet *p)
{
	return trusts() && p->proto == PROTO_TCP && !opens(p);
}

static __always_inline bool is_known(const struct flow_key *key, __u64 now)
{
	return is_alive(bpf_map_lookup_elem(&flows, key), life_of(key), now) ||
	       is_alive(bpf_map_lookup_elem(&attempts, key), ATTEMPT_LIFE_NS, now);
}

/*
 * Whether p answers what the task of a link opened, or is the news that something it opened did not
 * arrive, or belongs to a datagram whose first fragment was let in. Global: two look-ups and two
 * headers would not fit the caller's stack.
 */
__noinline int answers(struct __sk_buff *skb, const struct packet *p, __u32 link)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow_key key;

	if (!p)
		return false;
	if (p->fragment == FRAGMENT_LATER)
		return !datagram_of(skb, p, &key) &&
		       is_alive(bpf_map_lookup_elem(&datagrams, &key), FRAGMENTS_LIFE_NS, now);
	if (is_icmp(p) && is_icmp_error(p)) {
		memset(&key, 0, sizeof(key));
		key.vni = p->vni;
		if (quoted_flow(skb, p, &key) || !same_addr(&key.src, &p->dst))
			return false;
		return is_known(&key, now);
	}
	if (is_icmp(p) && opens(p)) /* in both directions an echo has the same ports */
		return false;
	answered_by(p, &key);
	if (is_alive(bpf_map_lookup_elem(&flows, &key), life_of(&key), now)) {
		if (p->proto == PROTO_TCP && p->tcp & TCP_RST)
			close_flow(&key, now);
		return true;
	}
	return answers_attempt(p, &key, link, now) || may_answer(p);
}
