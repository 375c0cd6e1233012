/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Names answered in the kernel: a question whose answer is in dns_answers or dns_long becomes that
 * answer, in place.
 *
 *   1. find    the row of (view, name, type); the question is parsed by lib/question.h
 *   2. make    what becomes of header and size; TC when the records do not fit
 *   3. put     records behind the question, rotated; the packet is restored if they were torn
 *   4. turn    header, checksums, ports, addresses, MACs
 *
 * Up to step 3 the packet is as it came: what is odd, long or unknown is left to the name server.
 */

#include "lib/deliver.h"
#include "lib/question.h"

/* A row of either map. What follows is walked by the verifier once for each. */
struct dns_row {
	const struct dns_answer *head; /* up to data; what is behind is at room */
	__u32 room; /* for records: DNS_DATA or DNS_LONG_DATA */
};

_Static_assert(__builtin_offsetof(struct dns_answer, data) ==
		       __builtin_offsetof(struct dns_long, data),
	       "dns_row");

/* What becomes of a question. */
struct dns_made {
	__u32 at; /* where records begin, from the start of the frame */
	__u32 len; /* of the records, bytes; 0 where they do not fit */
	__u32 opt; /* of the OPT record behind them */
	__u32 diff; /* what the answer adds to the message's sum */
	__u16 mark; /* of the row */
	struct dns_head head; /* flags and counts; of the others the question's are kept */
};

/* 1. Finds the answer of the key in scratch. Most are in the first map. */
static __always_inline struct dns_row dns_find(const struct dns_scratch *s)
{
	struct dns_row row = {bpf_map_lookup_elem(&dns_answers, &s->key), DNS_DATA};

	if (!row.head) {
		row.head = bpf_map_lookup_elem(&dns_long, &s->key);
		row.room = DNS_LONG_DATA;
	}
	return row;
}

/*
 * Whether a row is (still) the answer of the key in scratch, as it was when its mark was read. Rows
 * of an LRU map are reused as soon as they are free, for the same name too, and written front to
 * back. Each time a row is written it gets another mark, at the front, and a stamp made of name and
 * mark, at the end. So a reader takes the mark first and looks at both last.
 */
static __always_inline bool dns_sealed(struct dns_row row, struct dns_scratch *s, __u16 mark)
{
	const volatile __u32 *stamp = (const void *)(row.head->data + row.room);
	const volatile struct dns_answer *head = row.head;

	return *stamp == ((__u32)s->key.hash[0] ^ mark * 0x9e3779b1U) && head->mark == mark;
}

/* Sums of RFC 1071 are of 16-bit words; that of bytes from an odd offset on is turned. */
static __always_inline __u16 dns_sum_at(__u32 sum, __u32 at)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return at & 1 ? __builtin_bswap16(sum) : sum;
}

/*
 * Of the first len bytes of a row's data, at offset at; those behind are zero. Records that are
 * turned have an even size, so that any order has the same sum.
 */
static __always_inline __u16 dns_sum_records(struct dns_row row, __u32 len, __u32 at)
{
	len = (len + 3) & ~3U;
	opaque(len);
	if (len > row.room)
		return 0; /* never */
	return dns_sum_at(bpf_csum_diff(NULL, 0, (__be32 *)row.head->data, len, 0), at);
}

/* Of the OPT record that the asker sent, with its options. */
static __always_inline __u16 dns_sum_asked(struct dns_scratch *s)
{
	__u32 at = s->end, size = (s->size - at + 3) & ~3U;

	opaque(at);
	opaque(size);
	if (at > DNS_ASK_MAX || size > DNS_ASK_MAX)
		return 0; /* never */
	return dns_sum_at(bpf_csum_diff(NULL, 0, (__be32 *)(s->msg + at), size, 0), at);
}

/* Of the OPT record that dns_put_opt writes at offset at. */
static __always_inline __u16 dns_sum_opt(const struct dns_scratch *s, __u32 at)
{
	__u32 sum = bpf_htons(DNS_TYPE_OPT << 8 | DNS_EDNS_MAX >> 8) +
		    bpf_htons((DNS_EDNS_MAX & 0xff) << 8) + bpf_htons(s->dnssec);

	return dns_sum_at(sum, at);
}

/* The difference that the header's words make. */
static __always_inline __u32 dns_sum_head(const struct dns_head *was, const struct dns_head *is)
{
	return (__u16)~was->flags + is->flags + (__u16)~was->ancount + is->ancount +
	       (__u16)~was->nscount + is->nscount + (__u16)~was->arcount + is->arcount;
}

/* 2. Makes the answer but for its records. */
static __always_inline int dns_make(struct dns_row row, struct dns_scratch *s,
				    struct dns_made *made)
{
	const volatile struct dns_answer *head = row.head;
	const struct dns_head *asked = (const void *)s->msg;
	__u16 flags;

	made->mark = head->mark;
	flags = DNS_QR | DNS_AA | (head->rcode & DNS_RCODE);
	made->len = head->len;
	made->opt = s->edns ? DNS_OPT : 0;
	made->head.ancount = bpf_htons(head->ancount);
	made->head.nscount = bpf_htons(head->nscount);
	made->head.arcount = bpf_htons(head->arcount + s->edns);
	if (made->len > row.room || !dns_sealed(row, s, made->mark))
		return -1;
	if (s->end + made->len + made->opt > s->limit) {
		made->head.ancount = made->head.nscount = 0;
		made->head.arcount = bpf_htons(s->edns);
		flags |= DNS_TC;
		made->len = 0;
	}
	if (dns_recursion)
		flags |= DNS_RA;
	made->head.flags = bpf_htons(flags) | (asked->flags & bpf_htons(DNS_RD | DNS_CD));
	made->diff = dns_sum_head(asked, &made->head);
	made->diff += dns_sum_records(row, made->len, s->end);
	if (made->opt)
		made->diff += (__u16)~dns_sum_asked(s) + dns_sum_opt(s, s->end + made->len);
	return 0;
}

/*
 * Copies n bytes of records, of a row with that room, from offset from to offset at of the packet,
 * by words, the last of which may overlap the one before: no record is shorter than a word.
 */
static __always_inline int dns_copy_words(struct __sk_buff *skb, const __u8 *records, __u32 room,
					  __u32 from, __u32 at, __u32 n)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (n && n < 8)
		return -1;
	for (__u32 i = 0; i < room; i += 8) {
		__u32 off = i + 8 > n ? n - 8 : i, src = from + off, dst = at + off;
		__u64 *to;

		if (i >= n)
			break;
		opaque(src);
		opaque(dst);
		if (src > room - 8 || dst > DNS_FRAME_MAX)
			return -1;
		to = data + dst;
		if ((void *)(to + 1) > end)
			return -1;
		*to = *(const __u64 *)(records + src);
	}
	return 0;
}

/* Global, each with its own type of row: the verifier walks their loops once. */
__noinline int dns_copy_short(struct __sk_buff *skb, const struct dns_answer *a, __u32 from,
			      __u32 at, __u32 n)
{
	return a ? dns_copy_words(skb, a->data, DNS_DATA, from, at, n) : -1;
}

__noinline int dns_copy_long(struct __sk_buff *skb, const struct dns_long *a, __u32 from, __u32 at,
			     __u32 n)
{
	return a ? dns_copy_words(skb, a->data, DNS_LONG_DATA, from, at, n) : -1;
}

static __always_inline int dns_copy(struct __sk_buff *skb, struct dns_row row, __u32 from, __u32 at,
				    __u32 n)
{
	if (row.room == DNS_DATA)
		return dns_copy_short(skb, row.head, from, at, n);
	return dns_copy_long(skb, (const void *)row.head, from, at, n);
}

/* The server's OPT record at offset at of the packet. */
static __always_inline int dns_put_opt(struct __sk_buff *skb, __u32 at, __u8 dnssec)
{
	__u8 *opt, *end = (void *)(long)skb->data_end;

	opaque(at);
	if (at > DNS_FRAME_MAX)
		return -1;
	opt = (void *)(long)skb->data + at;
	if (opt + DNS_OPT > end)
		return -1;
	memset(opt, 0, DNS_OPT); /* the root's name, no extended code, version 0, no options */
	opt[2] = DNS_TYPE_OPT;
	opt[3] = DNS_EDNS_MAX >> 8;
	opt[4] = DNS_EDNS_MAX & 0xff;
	opt[7] = dnssec;
	return 0;
}

/* Puts records and OPT behind the question. */
static __always_inline int dns_put(struct __sk_buff *skb, struct dns_row row, struct dns_scratch *s,
				   const struct dns_made *made)
{
	const volatile struct dns_answer *head = row.head;
	__u32 at = made->at, len = made->len, size = head->rotate, count = head->ancount;
	__u32 block = size * count, first;
	int failed;

	if (size == 0 || count < 2 || len == 0) {
		failed = dns_copy(skb, row, 0, at, len);
	} else {
		first = bpf_get_prandom_u32() % count * size;
		failed = dns_copy(skb, row, first, at, block - first);
		failed |= dns_copy(skb, row, 0, at + block - first, first);
		failed |= dns_copy(skb, row, block, at + block, len - block);
	}
	if (made->opt)
		failed |= dns_put_opt(skb, at + len, s->dnssec);
	return failed || !dns_sealed(row, s, made->mark) ? -1 : 0;
}

/* Makes the packet what it was before dns_put; returns 0 when it is. */
static __always_inline int dns_restore(struct __sk_buff *skb, struct dns_scratch *s, __u32 at)
{
	__u32 from = s->end, size = s->size - from;

	if (bpf_skb_change_tail(skb, at + size, 0))
		return -1;
	if (!s->edns)
		return 0;
	opaque(from);
	if (from > DNS_ASK_MAX)
		return -1;
	/* Apart, or the compiler makes one comparison of them, of which Linux 6.1 keeps one end. */
	opaque(size);
	if (size < DNS_OPT)
		return -1;
	opaque(size);
	if (size > DNS_ASK_MAX)
		return -1;
	return bpf_skb_store_bytes(skb, at, s->msg + from, size, 0);
}

/*
 * Sums of the UDP header are changed, never made: right for packets whose sum the sender left to be
 * finished later (only the pseudo header's part is in it), and for those that have it. An absent
 * sum (IPv4 only) stays absent.
 */
static __always_inline int dns_turn_sum(struct __sk_buff *skb, __u32 at, __u32 diff, __be16 was,
					__be16 is)
{
	diff += (__u16)~was + is; /* the length is in both headers */
	if (bpf_l4_csum_replace(skb, at, 0, diff, BPF_F_MARK_MANGLED_0))
		return -1;
	return bpf_l4_csum_replace(skb, at, was, is, BPF_F_MARK_MANGLED_0 | BPF_F_PSEUDO_HDR | 2);
}

static __always_inline void dns_swap(void *a, void *b, int words)
{
	__u32 *x = a, *y = b;

	for (int i = 0; i < words; i++) {
		__u32 keep = x[i];

		x[i] = y[i];
		y[i] = keep;
	}
}

/* A sum of RFC 1071 after one of the words it covers changed (RFC 1624, equation 3). */
static __always_inline __be16 dns_resum(__be16 sum, __be16 was, __be16 is)
{
	__u32 wide = (__u16)~sum + (__u16)~was + is;

	wide = (wide & 0xffff) + (wide >> 16);
	return ~((wide & 0xffff) + (wide >> 16));
}

/*
 * Exchanges MACs, addresses and ports, sets the lengths for a datagram of len bytes, and makes the
 * message's header the answer's.
 */
static __always_inline int dns_turn_heads(struct __sk_buff *skb, bool v4, __u16 len,
					  const struct dns_head *head)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethernet *eth = data;
	struct ipv4 *ip4 = data + sizeof(*eth);
	struct ipv6 *ip6 = data + sizeof(*eth);
	struct udp *udp = v4 ? (void *)(ip4 + 1) : (void *)(ip6 + 1);
	struct dns_head *h = (void *)(udp + 1);
	__be16 mac[3];

	if ((void *)(h + 1) > end)
		return -1;
	memcpy(mac, eth->dst, 6);
	memcpy(eth->dst, eth->src, 6);
	memcpy(eth->src, mac, 6);
	if (v4) {
		__be16 total = bpf_htons(len + sizeof(*ip4));

		dns_swap(&ip4->src, &ip4->dst, 1);
		ip4->checksum = dns_resum(ip4->checksum, ip4->total_len, total);
		ip4->total_len = total;
	} else {
		dns_swap(ip6->src, ip6->dst, 4);
		ip6->payload_len = bpf_htons(len);
	}
	udp->dport = udp->sport;
	udp->sport = bpf_htons(DNS_PORT);
	udp->len = bpf_htons(len);
	h->flags = head->flags;
	h->ancount = head->ancount;
	h->nscount = head->nscount;
	h->arcount = head->arcount;
	return 0;
}

/* 4. Makes the packet the answer. */
static __always_inline int dns_turn(struct __sk_buff *skb, const struct packet *p,
				    struct dns_scratch *s, const struct dns_made *made)
{
	__u16 was = s->size + sizeof(struct udp);
	__u16 is = s->end + made->len + made->opt + sizeof(struct udp);

	if (dns_turn_sum(skb, p->l4 + __builtin_offsetof(struct udp, checksum), made->diff,
			 bpf_htons(was), bpf_htons(is)))
		return -1;
	return dns_turn_heads(skb, is_ipv4(p), is, &made->head);
}

/*
 * Turns a question (dns_asked) in the view of p->vni into its answer. Returns the reason: when it
 * is REASON_ANSWERED_DNS the caller sends the packet back where it came from; from REASON_DROP on
 * the packet is spoilt and only to be dropped; else it is as it was. Global, to have a stack of its
 * own.
 */
__noinline int dns_answer(struct __sk_buff *skb, const struct packet *p)
{
	struct dns_scratch *s = dns_paper();
	struct dns_made made = {};
	struct dns_row row;
	__u32 at;

	if (!s || !p)
		return REASON_DNS_UNREAD;
	at = p->l4 + sizeof(struct udp);
	if (dns_read(skb, at, dns_size(skb, p), s) || dns_parse(s, p->vni))
		return REASON_DNS_UNREAD;
	if (dns_hash(s, s->key.len))
		return REASON_DNS_UNREAD; /* never */
	row = dns_find(s);
	if (!row.head)
		return REASON_DNS_MISS;
	if (dns_make(row, s, &made))
		return REASON_DNS_CHANGED;
	made.at = at + s->end;
	if (bpf_skb_change_tail(skb, made.at + made.len + made.opt, 0))
		return REASON_DNS_CHANGED; /* or no memory */
	if (dns_put(skb, row, s, &made))
		return dns_restore(skb, s, made.at) ? REASON_REDIRECT_FAILED : REASON_DNS_CHANGED;
	return dns_turn(skb, p, s, &made) ? REASON_REDIRECT_FAILED : REASON_ANSWERED_DNS;
}

/* Step of a task's link: its questions to the node's name server. */
static __always_inline int answer_name(struct __sk_buff *skb, struct packet *p)
{
	int reason;

	if (!dns_asked(p))
		return CONTINUE;
	reason = dns_answer(skb, p);
	if (reason == REASON_ANSWERED_DNS)
		return send_back(skb, p, REASON_ANSWERED_DNS);
	return end(p, reason, reason < REASON_DROP ? TCX_NEXT : TCX_DROP);
}
