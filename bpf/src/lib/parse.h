/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * From bytes to struct packet: Ethernet, IPv4 or IPv6 with extension headers, TCP, UDP or ICMP.
 * Whatever a later step decides by has been read and checked here; what is not sensible ends here.
 */

#include "lib/packet.h"

struct cursor {
	void *pos;
	void *end;
};

enum {
	EXTENSIONS_MAX = 8, /* headers behind an IPv6 header; more is no honest packet */
	FRONT = 512, /* bytes of a frame that are looked for without a call */
};

/* A cursor at an offset from the start of the frame, over at least want bytes if there are. */
static __always_inline struct cursor cursor_at(struct __sk_buff *skb, __u32 offset, __u32 want)
{
	struct cursor c;

	if ((void *)(long)skb->data + offset + want > (void *)(long)skb->data_end &&
	    skb->len >= offset + want)
		bpf_skb_pull_data(skb, offset + want);
	c.pos = (void *)(long)skb->data + offset;
	c.end = (void *)(long)skb->data_end;
	return c;
}

/* The next size bytes, or NULL where the packet ends before. */
static __always_inline void *take(struct cursor *c, __u32 size)
{
	void *pos = c->pos;

	if (pos + size > c->end)
		return NULL;
	c->pos = pos + size;
	return pos;
}

/*
 * Copies size bytes from offset at of the frame. Headers are nearly always in one piece at its
 * front, where no call into the kernel is needed.
 */
static __always_inline int read(struct __sk_buff *skb, __u32 at, void *to, __u32 size)
{
	void *pos = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u64 offset = at;

	if (at < FRONT) {
		/* The compiler knows these bounds, and would show them to the verifier elsewhere.
		 */
		asm volatile("%0 &= %1" : "+r"(offset) : "i"(FRONT - 1));
		pos += offset;
		asm volatile("" : "+r"(pos));
		if (pos + size <= end) {
			memcpy(to, __builtin_assume_aligned(pos, 2), size);
			return 0;
		}
	}
	return bpf_skb_load_bytes(skb, at, to, size);
}

/*
 * Walks over the extension headers from offset at, at most up to offset end. Returns the offset of
 * what follows them, its protocol in bits 16 to 23 and enum fragment from bit 24, or 0.
 * Global: the verifier walks its loop once and not once per state of each caller.
 */
__noinline __u32 walk_extensions(struct __sk_buff *skb, __u32 proto, __u32 at, __u32 end)
{
	__u32 fragment = FRAGMENT_NONE;

	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		struct ipv6_extension ext = {};

		if (proto != PROTO_HOPOPTS && proto != PROTO_ROUTING && proto != PROTO_DSTOPTS &&
		    proto != PROTO_FRAGMENT)
			return at > end ? 0 : fragment << 24 | (proto & 0xff) << 16 | (at & 0xffff);
		if (at > 0xf000 || at + sizeof(ext) > end ||
		    bpf_skb_load_bytes(skb, at, &ext, sizeof(ext)))
			return 0;
		if (proto == PROTO_FRAGMENT) {
			if (ext.fragment & bpf_htons(IPV6_OFFSET))
				return FRAGMENT_LATER << 24 | ext.next << 16 | (at + sizeof(ext));
			if (ext.fragment & bpf_htons(IPV6_MF))
				fragment = FRAGMENT_FIRST;
			at += sizeof(ext);
		} else {
			at += (ext.len + 1) * 8;
		}
		proto = ext.next;
	}
	return 0;
}

static __always_inline bool is_extension(__u32 proto)
{
	return proto == PROTO_HOPOPTS || proto == PROTO_ROUTING || proto == PROTO_DSTOPTS ||
	       proto == PROTO_FRAGMENT;
}

/* The same; most packets have none. */
static __always_inline __u32 skip_extensions(struct __sk_buff *skb, __u32 proto, __u32 at,
					     __u32 end)
{
	if (is_extension(proto))
		return walk_extensions(skb, proto, at, end);
	return FRAGMENT_NONE << 24 | (proto & 0xff) << 16 | (at & 0xffff);
}

static __always_inline int parse_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct tcp tcp;

	if (p->l4 + sizeof(tcp) > p->l3 + p->l3_len || read(skb, p->l4, &tcp, sizeof(tcp)))
		return drop(p, REASON_MALFORMED);
	p->sport = tcp.sport;
	p->dport = tcp.dport;
	p->tcp = tcp.flags;
	p->l4_len = (tcp.offset >> 4) * 4;
	if (p->l4_len < sizeof(tcp))
		return drop(p, REASON_MALFORMED);
	return CONTINUE;
}

static __always_inline int parse_udp(struct __sk_buff *skb, struct packet *p)
{
	struct udp udp;

	if (p->l4 + sizeof(udp) > p->l3 + p->l3_len || read(skb, p->l4, &udp, sizeof(udp)))
		return drop(p, REASON_MALFORMED);
	p->sport = udp.sport;
	p->dport = udp.dport;
	p->l4_len = sizeof(udp);
	return CONTINUE;
}

static __always_inline bool is_echo(const struct packet *p)
{
	return is_ipv4(p) ? p->icmp == ICMP_ECHO || p->icmp == ICMP_ECHO_REPLY
			  : p->icmp == ICMPV6_ECHO || p->icmp == ICMPV6_ECHO_REPLY;
}

static __always_inline int parse_icmp(struct __sk_buff *skb, struct packet *p)
{
	struct icmp icmp;

	if (p->l4 + sizeof(icmp) > p->l3 + p->l3_len || read(skb, p->l4, &icmp, sizeof(icmp)))
		return drop(p, REASON_MALFORMED);
	p->icmp = icmp.type;
	p->l4_len = sizeof(icmp);
	if (is_echo(p))
		p->sport = p->dport = icmp.id;
	return CONTINUE;
}

static __always_inline int parse_l4(struct __sk_buff *skb, struct packet *p)
{
	if (p->fragment == FRAGMENT_LATER)
		return CONTINUE;
	if (p->proto == PROTO_TCP)
		return parse_tcp(skb, p);
	if (p->proto == PROTO_UDP)
		return parse_udp(skb, p);
	if (is_icmp(p))
		return parse_icmp(skb, p);
	return CONTINUE;
}

/* Lengths as IP says them, against room: the bytes that the frame has behind Ethernet. */
static __always_inline int parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	struct cursor c = cursor_at(skb, p->l3, sizeof(struct ipv4));
	struct ipv4 *ip = take(&c, sizeof(*ip));
	__u32 room = skb->len - p->l3, header;

	if (!ip || ip->version_ihl >> 4 != 4)
		return drop(p, REASON_MALFORMED);
	header = (ip->version_ihl & 0xf) * 4;
	p->l3_len = bpf_ntohs(ip->total_len);
	if (!p->l3_len && skb->gso_size) /* above 64 KiB */
		p->l3_len = room;
	if (header < sizeof(*ip) || p->l3_len < header || p->l3_len > room)
		return drop(p, REASON_MALFORMED);
	p->l4 = p->l3 + header;
	p->proto = ip->proto;
	p->tos = ip->tos;
	p->ttl = ip->ttl;
	p->dont_fragment = !!(ip->fragment & bpf_htons(IPV4_DF));
	if (ip->fragment & bpf_htons(IPV4_OFFSET))
		p->fragment = FRAGMENT_LATER;
	else if (ip->fragment & bpf_htons(IPV4_MF))
		p->fragment = FRAGMENT_FIRST;
	set_addr4(&p->src, ip->src);
	set_addr4(&p->dst, ip->dst);
	return parse_l4(skb, p);
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	struct cursor c = cursor_at(skb, p->l3, sizeof(struct ipv6));
	struct ipv6 *ip = take(&c, sizeof(*ip));
	__u32 room = skb->len - p->l3, skipped;

	if (!ip || (ip->version_class_flow & bpf_htonl(0xf0000000)) != bpf_htonl(0x60000000))
		return drop(p, REASON_MALFORMED);
	p->l3_len = sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (!ip->payload_len && skb->gso_size) /* above 64 KiB */
		p->l3_len = room;
	if (p->l3_len > room)
		return drop(p, REASON_MALFORMED);
	p->tos = bpf_ntohl(ip->version_class_flow) >> 20;
	p->ttl = ip->hop_limit;
	p->dont_fragment = true;
	copy_addr(&p->src, ip->src);
	copy_addr(&p->dst, ip->dst);
	/* That form is of rows only: in an IPv6 header it would pass for the IPv4 address. */
	if (is_mapped(&p->src) || is_mapped(&p->dst))
		return drop(p, REASON_MALFORMED);
	skipped = skip_extensions(skb, ip->next, p->l3 + sizeof(*ip), p->l3 + p->l3_len);
	if (!skipped)
		return drop(p, REASON_MALFORMED);
	p->l4 = skipped & 0xffff;
	p->proto = skipped >> 16 & 0xff;
	p->fragment = skipped >> 24;
	return parse_l4(skb, p);
}

/* What only some packets have; the outer headers may have left theirs. */
static __always_inline void forget(struct packet *p)
{
	p->sport = 0;
	p->dport = 0;
	p->fragment = FRAGMENT_NONE;
	p->icmp = 0;
	p->tcp = 0;
	p->l4_len = 0;
}

/*
 * Parses the frame that begins at offset base. Of ARP it notes the type alone; a VLAN tag (in the
 * frame or beside it) makes it neither.
 */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p, __u32 base)
{
	struct cursor c = cursor_at(skb, base, sizeof(struct ethernet) + sizeof(struct ipv6));
	struct ethernet *eth = take(&c, sizeof(*eth));

	if (!eth)
		return drop(p, REASON_MALFORMED);
	if (skb->vlan_present)
		return drop(p, REASON_NOT_IP);
	forget(p);
	p->ethertype = eth->type;
	p->l3 = base + sizeof(*eth);
	if (p->ethertype == bpf_htons(ETHERTYPE_IPV4))
		return parse_ipv4(skb, p);
	if (p->ethertype == bpf_htons(ETHERTYPE_IPV6))
		return parse_ipv6(skb, p);
	if (p->ethertype == bpf_htons(ETHERTYPE_ARP))
		return CONTINUE;
	return drop(p, REASON_NOT_IP);
}
