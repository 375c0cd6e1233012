/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * From bytes to a flow of the edge, with no helper in between: XDP and tc programs read the same
 * way. What is not sensible is not for a VIP, as far as the edge knows, and is the stack's to drop.
 */

#include "lib/packet.h"

struct edge_packet {
	struct edge_flow_key flow; /* of an ICMP error: of the packet that it is about */
	__u32 len; /* of the frame as met, bytes */
	__u16 l3_len; /* of the IP packet by its own header */
	__u16 headers; /* of IP and transport */
	__be16 ethertype;
	__u8 tos;
	__u8 opens; /* a TCP SYN */
	__u8 quoted; /* an ICMP error: it tells nothing of the flow but its name */
	__u8 reason; /* enum reason */
	__u8 dont_fragment;
	__u8 payload; /* of UDP, offset in the frame; 0: none */
};

/* What a parser found. */
enum edge_kind {
	EDGE_FOREIGN, /* nothing that could be a VIP's */
	EDGE_FLOW,
	EDGE_FRAGMENT, /* of the address alone, where there are no ports */
	EDGE_EXTENSION,
	EDGE_OTHER,
};

#define AT(type, field) __builtin_offsetof(struct type, field)

/* The ports and what opens; room: bytes of the IP packet from l4 on. */
static __always_inline enum edge_kind edge_parse_l4(const void *l4, const void *end, __u32 room,
						    __u8 proto, struct edge_packet *e)
{
	if (proto == PROTO_TCP) {
		if (l4 + sizeof(struct tcp) > end || room < sizeof(struct tcp))
			return EDGE_FOREIGN;
		e->opens = (*(const __u8 *)(l4 + AT(tcp, flags)) &
			    (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
		e->headers = e->l3_len - room + (*(const __u8 *)(l4 + AT(tcp, offset)) >> 4) * 4;
	} else if (proto == PROTO_UDP) {
		if (l4 + sizeof(struct udp) > end || room < sizeof(struct udp))
			return EDGE_FOREIGN;
		e->headers = e->l3_len - room + sizeof(struct udp);
		e->payload = sizeof(struct ethernet) + e->headers;
	} else {
		return EDGE_OTHER;
	}
	e->flow.port = get16(l4);
	e->flow.vip.port = get16(l4 + 2);
	e->flow.vip.proto = proto;
	return EDGE_FLOW;
}

/* Of what an ICMP error quotes, an answer of the VIP: its flow. at: transport header, 8 bytes. */
static __always_inline enum edge_kind edge_quoted(const void *at, const void *end, __u8 proto,
						  struct edge_packet *e)
{
	if (proto != PROTO_TCP && proto != PROTO_UDP)
		return EDGE_OTHER;
	if (at + 8 > end)
		return EDGE_FOREIGN;
	e->flow.vip.port = get16(at);
	e->flow.port = get16(at + 2);
	e->flow.vip.proto = proto;
	e->quoted = true;
	return EDGE_FLOW;
}

static __always_inline enum edge_kind edge_parse_icmp(const void *icmp, const void *end,
						      struct edge_packet *e)
{
	const void *ip = icmp + sizeof(struct icmp);
	__u8 type;
	__u32 header;

	if (ip + sizeof(struct ipv4) > end)
		return EDGE_OTHER;
	type = *(const __u8 *)icmp;
	if (type != ICMP_UNREACHABLE && type != ICMP_TIME_EXCEEDED && type != ICMP_PARAMETER)
		return EDGE_OTHER;
	header = (*(const __u8 *)ip & 0xf) * 4;
	if (header < sizeof(struct ipv4) ||
	    get16(ip + AT(ipv4, fragment)) & bpf_htons(IPV4_OFFSET) ||
	    get32(ip + AT(ipv4, src)) != word(&e->flow.vip.addr, 3))
		return EDGE_OTHER;
	set_addr4(&e->flow.client, get32(ip + AT(ipv4, dst)));
	return edge_quoted(ip + header, end, *(const __u8 *)(ip + AT(ipv4, proto)), e);
}

static __always_inline enum edge_kind edge_parse_icmpv6(const void *icmp, const void *end,
							struct edge_packet *e)
{
	const void *ip = icmp + sizeof(struct icmp);
	struct addr source;
	__u8 type;

	if (icmp + 1 > end)
		return EDGE_OTHER;
	type = *(const __u8 *)icmp;
	if (type >= ICMPV6_MLD_QUERY && type <= ICMPV6_REDIRECT) /* between neighbours */
		return EDGE_FOREIGN;
	if (ip + sizeof(struct ipv6) > end)
		return EDGE_OTHER;
	if (type < ICMPV6_UNREACHABLE || type > ICMPV6_PARAMETER)
		return EDGE_OTHER;
	copy_addr(&source, ip + AT(ipv6, src));
	if (!same_addr(&source, &e->flow.vip.addr))
		return EDGE_OTHER;
	copy_addr(&e->flow.client, ip + AT(ipv6, dst));
	return edge_quoted(ip + sizeof(struct ipv6), end, *(const __u8 *)(ip + AT(ipv6, next)), e);
}

static __always_inline enum edge_kind edge_parse_ipv4(const void *ip, const void *end,
						      struct edge_packet *e)
{
	__u32 first, header, fragment;
	enum edge_kind kind;
	__u8 proto;

	if (ip + sizeof(struct ipv4) > end)
		return EDGE_FOREIGN;
	first = *(const __u8 *)ip;
	header = (first & 0xf) * 4;
	e->l3_len = bpf_ntohs(get16(ip + AT(ipv4, total_len)));
	if (first >> 4 != 4 || header < sizeof(struct ipv4) || e->l3_len < header ||
	    e->l3_len > e->len - sizeof(struct ethernet))
		return EDGE_FOREIGN;
	e->tos = *(const __u8 *)(ip + AT(ipv4, tos));
	proto = *(const __u8 *)(ip + AT(ipv4, proto));
	fragment = get16(ip + AT(ipv4, fragment));
	e->dont_fragment = !!(fragment & bpf_htons(IPV4_DF));
	set_addr4(&e->flow.client, get32(ip + AT(ipv4, src)));
	set_addr4(&e->flow.vip.addr, get32(ip + AT(ipv4, dst)));
	if (fragment & bpf_htons(IPV4_OFFSET))
		return EDGE_FRAGMENT;
	ip += header;
	if (proto == PROTO_ICMP)
		kind = edge_parse_icmp(ip, end, e);
	else
		kind = edge_parse_l4(ip, end, e->l3_len - header, proto, e);
	return fragment & bpf_htons(IPV4_MF) && kind != EDGE_FOREIGN ? EDGE_FRAGMENT : kind;
}

static __always_inline enum edge_kind edge_parse_ipv6(const void *ip, const void *end,
						      struct edge_packet *e)
{
	__u32 first, payload;
	__u8 next;

	if (ip + sizeof(struct ipv6) > end)
		return EDGE_FOREIGN;
	first = bpf_ntohs(get16(ip));
	payload = bpf_ntohs(get16(ip + AT(ipv6, payload_len)));
	if (first >> 12 != 6 || payload + sizeof(struct ipv6) + sizeof(struct ethernet) > e->len)
		return EDGE_FOREIGN;
	e->l3_len = payload + sizeof(struct ipv6);
	e->tos = first >> 4;
	e->dont_fragment = true;
	next = *(const __u8 *)(ip + AT(ipv6, next));
	copy_addr(&e->flow.client, ip + AT(ipv6, src));
	copy_addr(&e->flow.vip.addr, ip + AT(ipv6, dst));
	if (is_mapped(&e->flow.client) || is_mapped(&e->flow.vip.addr)) /* RFC 4942 2.2 */
		return EDGE_FOREIGN;
	ip += sizeof(struct ipv6);
	if (next == PROTO_ICMPV6)
		return edge_parse_icmpv6(ip, end, e);
	if (next == PROTO_FRAGMENT)
		return EDGE_FRAGMENT;
	if (next == PROTO_HOPOPTS || next == PROTO_ROUTING || next == PROTO_DSTOPTS)
		return EDGE_EXTENSION;
	return edge_parse_l4(ip, end, payload, next, e);
}

/* e->len is set already. */
static __always_inline enum edge_kind edge_parse(const void *data, const void *end,
						 struct edge_packet *e)
{
	if (data + sizeof(struct ethernet) > end || *(const __u8 *)data & 1) /* to a group */
		return EDGE_FOREIGN;
	e->ethertype = get16(data + AT(ethernet, type));
	data += sizeof(struct ethernet);
	if (e->ethertype == bpf_htons(ETHERTYPE_IPV4))
		return edge_parse_ipv4(data, end, e);
	if (e->ethertype == bpf_htons(ETHERTYPE_IPV6))
		return edge_parse_ipv6(data, end, e);
	return EDGE_FOREIGN;
}
