/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * A name asked of the node: from the bytes of a datagram to the key of its answer.
 *
 *   1. read    the message into scratch
 *   2. parse   header, one question of class IN, at most one OPT record, nothing behind
 *   3. hash    the name, in small letters
 *
 * What is odd or long is left to the name server, which knows how to refuse it.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "headers/packet.h"
#include "lib/config.h"
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/parse.h"

enum {
	DNS_HEAD = 12, /* bytes of the message's header (RFC 1035 4.1.1) */
	DNS_QUESTION_TAIL = 4, /* type and class behind the name */
	DNS_OPT = 11, /* an OPT record without options (RFC 6891 6.1.2) */
	DNS_NAME_MAX = 255,
	DNS_LABELS_MAX = 128,
	DNS_ASK_MAX = 512, /* longer questions are left to the server */
	DNS_FRAME_MAX = 1023, /* offset in the frame of an answer; 62 + 259 + DNS_LONG_DATA + 11 */
	DNS_PLAIN_MAX = 512, /* what an asker without EDNS takes (RFC 1035 4.2.1) */
	DNS_EDNS_MAX = 1232, /* what passes every path unfragmented */
	DNS_TYPE_OPT = 41,
	DNS_CLASS_IN = 1,
	DNS_PORT = 53,
};

/* RFC 1035 4.1.1. */
struct dns_head {
	__be16 id;
	__be16 flags;
	__be16 qdcount;
	__be16 ancount;
	__be16 nscount;
	__be16 arcount;
};

_Static_assert(sizeof(struct dns_head) == DNS_HEAD, "dns_head");

/* Its flags, host order. */
enum {
	DNS_QR = 0x8000,
	DNS_OPCODE = 0x7800,
	DNS_AA = 0x0400,
	DNS_TC = 0x0200,
	DNS_RD = 0x0100,
	DNS_RA = 0x0080,
	DNS_CD = 0x0010,
	DNS_RCODE = 0x000f,
};

/* One message at a time, too large for the stack; msg + 12 is aligned for the hash. */
struct dns_scratch {
	struct dns_key key;
	__u32 size; /* of the question's message, bytes */
	__u32 limit; /* of the answer's, as the asker allows */
	__u16 end; /* of the question: where records begin */
	__u8 edns; /* the asker sent OPT, and gets one */
	__u8 dnssec; /* its DO bit, which is copied (RFC 3225 3) */
	__u8 pad[8];
	__u8 msg[2 * DNS_ASK_MAX]; /* for the verifier, who bounds offset and size apart */
};

_Static_assert(__builtin_offsetof(struct dns_scratch, msg[DNS_HEAD]) % 8 == 0, "dns_scratch");

/* Per CPU; used between two packets by nobody. Kernel only, not pinned. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct dns_scratch);
} dns_scratch SEC(".maps");

static __always_inline struct dns_scratch *dns_paper(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&dns_scratch, &zero);
}

static __always_inline __u16 dns_read16(const __u8 *p)
{
	return (__u16)(p[0] << 8 | p[1]);
}

/* Whether a packet is a question to the node's name server. */
static __always_inline bool dns_asked(const struct packet *p)
{
	const volatile struct addr *server = is_ipv4(p) ? &dns_addr4 : &dns_addr6;
	__be32 differs = 0;

	if (p->proto != PROTO_UDP || p->dport != bpf_htons(DNS_PORT))
		return false;
	for (int i = 0; i < 4; i++)
		differs |= word(&p->dst, i) ^ constant(server, i);
	return !differs && (word(&p->dst, 3) | word(&p->dst, 0));
}

/* The message's size by the UDP header, 0 where the packet is left to the server. */
static __always_inline __u32 dns_size(struct __sk_buff *skb, const struct packet *p)
{
	struct udp udp;
	__u32 len, heads = is_ipv4(p) ? sizeof(struct ipv4) : sizeof(struct ipv6);

	/* Options, extension headers, several datagrams in one buffer: rare, so not here. */
	if (p->fragment != FRAGMENT_NONE || skb->gso_size || p->l3 != sizeof(struct ethernet) ||
	    p->l4 != sizeof(struct ethernet) + heads)
		return 0;
	if (read(skb, p->l4, &udp, sizeof(udp)))
		return 0;
	if (!udp.checksum && !is_ipv4(p)) /* not allowed in IPv6 (RFC 8200 8.1) */
		return 0;
	len = bpf_ntohs(udp.len);
	return len < sizeof(udp) || p->l4 + len > skb->len ? 0 : len - sizeof(udp);
}

/* 1. Reads the message of size bytes at offset off of the packet into scratch. */
static __always_inline int dns_read(struct __sk_buff *skb, __u32 off, __u32 size,
				    struct dns_scratch *s)
{
	opaque(size);
	if (size < DNS_HEAD + 1 + DNS_QUESTION_TAIL || size > DNS_ASK_MAX)
		return -1;
	if (bpf_skb_load_bytes(skb, off, s->msg, size))
		return -1;
	*(__u32 *)(s->msg + size) = 0; /* sums are taken by words */
	s->size = size;
	return 0;
}

/*
 * The loops below are global functions: verified once each and not once per state of what calls
 * them. Inline they exceed the verifier's million of instructions.
 */

/* Returns the offset behind the name that starts at DNS_HEAD, or -1 if it is no plain name. */
__noinline int dns_name_end(const struct dns_scratch *s)
{
	__u32 at = DNS_HEAD;

	if (!s)
		return -1;
	for (int i = 0; i < DNS_LABELS_MAX; i++) {
		__u8 len;

		if (at >= s->size || at >= DNS_HEAD + DNS_NAME_MAX)
			return -1;
		len = s->msg[at];
		at += 1 + len;
		if (!len)
			return at;
		if (len > 63) /* a pointer, or a label type that was never used */
			return -1;
	}
	return -1;
}

/* The OPT record of the question at offset at, the last thing of the message (RFC 6891 6.1). */
static __always_inline int dns_parse_opt(struct dns_scratch *s, __u32 at)
{
	const __u8 *opt;
	__u16 wish;

	opaque(at);
	if (at > DNS_ASK_MAX - DNS_OPT)
		return -1;
	opt = s->msg + at;
	if (opt[0] != 0 || dns_read16(opt + 1) != DNS_TYPE_OPT)
		return -1;
	if (opt[6] != 0) /* a version that the server refuses with BADVERS */
		return -1;
	if (at + DNS_OPT + dns_read16(opt + 9) != s->size)
		return -1;
	wish = dns_read16(opt + 3);
	s->limit = wish < DNS_PLAIN_MAX ? DNS_PLAIN_MAX : wish > DNS_EDNS_MAX ? DNS_EDNS_MAX : wish;
	s->edns = 1;
	s->dnssec = opt[7] & 0x80;
	return 0;
}

/* 2. Parses what was read; fills the key but for its hashes. */
static __always_inline int dns_parse(struct dns_scratch *s, __u32 vni)
{
	const struct dns_head *h = (const void *)s->msg;
	const __u8 *m = s->msg;
	int end;

	/* A plain query: no answer, no opcode, not truncated; one question and no records. */
	if (h->flags & bpf_htons(DNS_QR | DNS_OPCODE | DNS_TC) || h->qdcount != bpf_htons(1) ||
	    h->ancount || h->nscount || h->arcount & ~bpf_htons(1))
		return -1;
	end = dns_name_end(s);
	if (end < DNS_HEAD + 1 || end > DNS_HEAD + DNS_NAME_MAX)
		return -1;
	if ((__u32)end + DNS_QUESTION_TAIL > s->size || dns_read16(m + end + 2) != DNS_CLASS_IN)
		return -1;
	s->key.vni = vni;
	s->key.qtype = dns_read16(m + end);
	s->key.len = end - DNS_HEAD;
	s->end = end + DNS_QUESTION_TAIL;
	s->limit = DNS_PLAIN_MAX;
	s->edns = 0;
	s->dnssec = 0;
	if (h->arcount)
		return dns_parse_opt(s, end + DNS_QUESTION_TAIL);
	return (__u32)end + DNS_QUESTION_TAIL == s->size ? 0 : -1;
}

/* Small letters for the ASCII capitals among 8 bytes; lengths of labels are below 'A'. */
static __always_inline __u64 dns_lower(__u64 w)
{
	const __u64 ones = 0x0101010101010101ULL;
	__u64 low = w & (0x7f * ones);
	__u64 from_a = low + (0x80 - 'A') * ones; /* top bit set in bytes >= 'A' */
	__u64 above_z = low + (0x7f - 'Z') * ones; /* top bit set in bytes > 'Z' */
	__u64 capital = ~w & (from_a ^ above_z); /* bytes from 0x80 on are no letters */

	return w | ((capital & (0x80 * ones)) >> 2);
}

/* 3. Writes both hashes of the name of len bytes into scratch; the Go twin is row.DNSHash. */
__noinline int dns_hash(struct dns_scratch *s, __u32 len)
{
	__u64 h0 = 0x9e3779b97f4a7c15ULL ^ len;
	__u64 h1 = 0xc2b2ae3d27d4eb4fULL + len;

	if (!s)
		return -1;
	for (__u32 i = 0; i < (DNS_NAME_MAX + 1) / 8; i++) {
		__u64 w;

		if (8 * i >= len)
			break;
		w = *(__u64 *)(s->msg + DNS_HEAD + 8 * i);
		if (8 * i + 8 > len)
			w &= (1ULL << (8 * (len & 7))) - 1;
		w = dns_lower(w);
		h0 = (h0 ^ w) * 0xff51afd7ed558ccdULL;
		h0 ^= h0 >> 32;
		h1 = (((h1 << 23) | (h1 >> 41)) ^ w) * 0xd6e8feb86659fd93ULL;
		h1 ^= h1 >> 29;
	}
	s->key.hash[0] = h0;
	s->key.hash[1] = h1;
	return 0;
}
