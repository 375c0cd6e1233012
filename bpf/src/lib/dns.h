/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * Names answered in the kernel: a question whose answer is in dns_answers becomes that answer, in
 * place.
 *
 *   1. read    the message into scratch
 *   2. parse   header, one question of class IN, at most one OPT record, nothing behind
 *   3. find    the answer of (view, name, type) by the name's hashes
 *   4. render  records behind the question, rotated; TC when they do not fit
 *   5. turn    size, payload, checksums, ports, addresses, MACs
 *
 * Until step 5 the packet is as it came: what is odd, long or unknown is left to the name server,
 * which knows how to refuse it.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "headers/packet.h"
#include "lib/config.h"
#include "lib/deliver.h"
#include "lib/maps.h"
#include "lib/packet.h"

enum {
	DNS_HEAD = 12, /* bytes of the message's header (RFC 1035 4.1.1) */
	DNS_QUESTION_TAIL = 4, /* type and class behind the name */
	DNS_OPT = 11, /* an OPT record without options (RFC 6891 6.1.2) */
	DNS_NAME_MAX = 255,
	DNS_LABELS_MAX = 128,
	DNS_ASK_MAX = 512, /* longer questions are left to the server */
	DNS_PLAIN_MAX = 512, /* what an asker without EDNS takes (RFC 1035 4.2.1) */
	DNS_EDNS_MAX = 1232, /* what passes every path unfragmented */
	DNS_TYPE_OPT = 41,
	DNS_CLASS_IN = 1,
	DNS_PORT = 53,
};

/* Bits of bytes 2 and 3 of the header. */
enum {
	DNS_QR = 0x80,
	DNS_OPCODE = 0x78,
	DNS_AA = 0x04,
	DNS_TC = 0x02,
	DNS_RD = 0x01,
	DNS_RA = 0x80,
	DNS_CD = 0x10,
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
	__u8 msg[1024]; /* 12 + 259 + DNS_DATA + DNS_OPT and a word to spare */
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

static __always_inline void dns_write16(__u8 *p, __u16 v)
{
	p[0] = v >> 8;
	p[1] = v & 0xff;
}

/*
 * The loops below are global functions: verified once each and not once per state of what calls
 * them. Inline they exceed the verifier's million of instructions.
 */

/* Returns the offset behind the name that starts at DNS_HEAD, or -1 if it is no plain name. */
__noinline int dns_name_end(void)
{
	struct dns_scratch *s = dns_paper();
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

/* Writes both hashes of the name of len bytes into scratch; the Go twin is row.DNSHash. */
__noinline int dns_hash(__u32 len)
{
	struct dns_scratch *s = dns_paper();
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

/*
 * Copies n bytes of a's data from offset from to offset at of the message, by words: up to 3 bytes
 * more are read (stamp is behind data) and written (what follows overwrites them).
 */
__noinline int dns_copy(const struct dns_answer *a, __u32 from, __u32 at, __u32 n)
{
	struct dns_scratch *s = dns_paper();

	if (!a || !s)
		return -1;
	for (__u32 i = 0; i < DNS_DATA; i += 4) {
		__u32 src = from + i, dst = at + i;

		if (i >= n)
			break;
		opaque(src);
		opaque(dst);
		if (src >= DNS_DATA || dst > sizeof(s->msg) - 4)
			return -1;
		*(__u32 *)(s->msg + dst) = *(const __u32 *)(a->data + src);
	}
	return 0;
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
	const __u8 *m = s->msg;
	int end;

	/* A plain query: no answer, no opcode, not truncated; one question and no records. */
	if (m[2] & (DNS_QR | DNS_OPCODE | DNS_TC) || dns_read16(m + 4) != 1 ||
	    dns_read16(m + 6) != 0 || dns_read16(m + 8) != 0 || dns_read16(m + 10) > 1)
		return -1;
	end = dns_name_end();
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
	if (dns_read16(m + 10))
		return dns_parse_opt(s, end + DNS_QUESTION_TAIL);
	return (__u32)end + DNS_QUESTION_TAIL == s->size ? 0 : -1;
}

/*
 * Whether a is (still) the answer of the key in scratch, as it was when its mark was read. Rows of
 * an LRU map are reused as soon as they are free, for the same name too, and written front to back.
 * Each time a row is written it gets another mark, at the front, and a stamp made of name and mark,
 * at the end. So a reader takes the mark first and looks at both last.
 */
static __always_inline bool dns_sealed(const volatile struct dns_answer *a, struct dns_scratch *s,
				       __u16 mark)
{
	__u32 stamp = (__u32)s->key.hash[0] ^ mark * 0x9e3779b1U;

	return a->stamp == stamp && a->mark == mark;
}

/* Copies the records of a behind the question; returns their number of bytes or -1. */
static __always_inline int dns_records(const struct dns_answer *a, struct dns_scratch *s)
{
	const volatile struct dns_answer *row = a;
	__u32 at = s->end, len = row->len, size = row->rotate, count = row->ancount;
	__u32 block = size * count, first;
	int failed;

	if (len > DNS_DATA || block > len)
		return -1;
	if (size == 0 || count < 2)
		return dns_copy(a, 0, at, len) ? -1 : (int)len;
	first = bpf_get_prandom_u32() % count * size;
	failed = dns_copy(a, first, at, block - first);
	failed |= dns_copy(a, 0, at + block - first, first);
	failed |= dns_copy(a, block, at + block, len - block);
	return failed ? -1 : (int)len;
}

/* Appends the server's OPT record at offset at; the caller kept room. */
static __always_inline int dns_render_opt(struct dns_scratch *s, __u32 at)
{
	__u8 *opt;

	opaque(at);
	if (at > sizeof(s->msg) - DNS_OPT - 4)
		return -1;
	opt = s->msg + at;
	opt[0] = 0;
	dns_write16(opt + 1, DNS_TYPE_OPT);
	dns_write16(opt + 3, DNS_EDNS_MAX);
	dns_write16(opt + 5, 0); /* no extended code, version 0 */
	opt[7] = s->dnssec;
	opt[8] = 0;
	dns_write16(opt + 9, 0);
	return 0;
}

/* 4. Makes the answer of the question in scratch; returns its size or -1. */
static __always_inline int dns_render(const struct dns_answer *a, struct dns_scratch *s)
{
	const volatile struct dns_answer *row = a;
	__u16 mark = row->mark;
	__u32 end = s->end, opt = s->edns ? DNS_OPT : 0, rcode = row->rcode & 0x0f;
	__u32 counts[3] = {row->ancount, row->nscount, row->arcount};
	int len = dns_records(a, s);
	__u8 *m = s->msg, cut = 0;

	if (len < 0 || !dns_sealed(a, s, mark))
		return -1;
	if (end + len + opt > s->limit) {
		len = counts[0] = counts[1] = counts[2] = 0;
		cut = DNS_TC;
	}
	m[2] = DNS_QR | DNS_AA | cut | (m[2] & DNS_RD);
	m[3] = (dns_recursion ? DNS_RA : 0) | (m[3] & DNS_CD) | rcode;
	dns_write16(m + 6, counts[0]);
	dns_write16(m + 8, counts[1]);
	dns_write16(m + 10, counts[2] + s->edns);
	end += len;
	if (opt && dns_render_opt(s, end))
		return -1;
	end += opt;
	opaque(end);
	if (end > sizeof(s->msg) - 4)
		return -1;
	*(__u32 *)(m + end) = 0;
	return end;
}

/* Adds the message of size bytes to sum; bpf_csum_diff takes 512 bytes at once. */
static __always_inline __u32 dns_sum(struct dns_scratch *s, __u32 size, __u32 sum, bool minus)
{
	__be32 *m = (__be32 *)s->msg;

	size = (size + 3) & ~3U;
	opaque(size);
	if (minus) /* a question is at most that long */
		return bpf_csum_diff(m, size & 0x3fc, NULL, 0, sum);
	if (size <= 512)
		return bpf_csum_diff(NULL, 0, m, size & 0x3fc, sum);
	sum = bpf_csum_diff(NULL, 0, m, 512, sum);
	return bpf_csum_diff(NULL, 0, m + 128, (size - 512) & 0x1fc, sum);
}

/*
 * Sums of the UDP header are changed, never made: right for packets whose sum the sender left to be
 * finished later (only the pseudo header's part is in it), and for those that have it. An absent
 * sum (IPv4 only) stays absent.
 */
static __always_inline int dns_turn_sum(struct __sk_buff *skb, __u32 at, __u32 diff, __be16 was,
					__be16 is)
{
	__u64 wide = (__u64)diff + (__u16)~was + is; /* the length is in both headers */

	diff = wide + (wide >> 32);
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

/* Exchanges MACs, addresses and ports, and sets the lengths for a datagram of len bytes. */
static __always_inline int dns_turn_heads(struct __sk_buff *skb, bool v4, __u16 len)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethernet *eth = data;
	struct ipv4 *ip4 = data + sizeof(*eth);
	struct ipv6 *ip6 = data + sizeof(*eth);
	struct udp *udp = v4 ? (void *)(ip4 + 1) : (void *)(ip6 + 1);
	__be16 mac[3];

	if ((void *)(udp + 1) > end)
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
	return 0;
}

/* 5. Makes the packet carry the answer of size bytes that is in scratch. */
static __always_inline int dns_turn(struct __sk_buff *skb, const struct packet *p, __u32 size,
				    __u32 diff)
{
	struct dns_scratch *s = dns_paper();
	__u32 at = p->l4 + sizeof(struct udp);

	if (!s)
		return -1;
	/* Apart, or the compiler makes one comparison of them, of which Linux 6.1 keeps one end. */
	opaque(size);
	if (size < DNS_HEAD)
		return -1;
	opaque(size);
	if (size > sizeof(s->msg))
		return -1;
	if (bpf_skb_store_bytes(skb, at, s->msg, size, 0))
		return -1;
	if (dns_turn_sum(skb, p->l4 + __builtin_offsetof(struct udp, checksum), diff,
			 bpf_htons(s->size + sizeof(struct udp)),
			 bpf_htons(size + sizeof(struct udp))))
		return -1;
	return dns_turn_heads(skb, is_ipv4(p), size + sizeof(struct udp));
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
	if (bpf_skb_load_bytes(skb, p->l4, &udp, sizeof(udp)))
		return 0;
	if (!udp.checksum && !is_ipv4(p)) /* not allowed in IPv6 (RFC 8200 8.1) */
		return 0;
	len = bpf_ntohs(udp.len);
	return len < sizeof(udp) || p->l4 + len > skb->len ? 0 : len - sizeof(udp);
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

/*
 * Turns a question (dns_asked) in the view of p->vni into its answer. Returns 1 when it did: the
 * caller sends the packet back where it came from; 0 when the packet is as it was; -1 when it is
 * spoilt and only to be dropped. Global, to have a stack of its own.
 */
__noinline int dns_answer(struct __sk_buff *skb, const struct packet *p)
{
	struct dns_scratch *s = dns_paper();
	const struct dns_answer *a;
	__u32 diff, size;
	int made;

	if (!s || !p)
		return 0;
	size = dns_size(skb, p);
	if (dns_read(skb, p->l4 + sizeof(struct udp), size, s) || dns_parse(s, p->vni))
		return 0;
	if (dns_hash(s->key.len))
		return 0;
	a = bpf_map_lookup_elem(&dns_answers, &s->key);
	if (!a || !dns_sealed(a, s, a->mark))
		return 0;
	diff = dns_sum(s, s->size, 0, true);
	made = dns_render(a, s);
	if (made < 0)
		return 0;
	if (bpf_skb_change_tail(skb, p->l4 + sizeof(struct udp) + made, 0))
		return 0;
	return dns_turn(skb, p, made, dns_sum(s, made, diff, false)) ? -1 : 1;
}

/* Step of a task's link: its questions to the node's name server. */
static __always_inline int answer_name(struct __sk_buff *skb, struct packet *p)
{
	if (!dns_asked(p))
		return CONTINUE;
	switch (dns_answer(skb, p)) {
	case 1:
		return send_back(skb, p, REASON_ANSWERED_DNS);
	case 0:
		return end(p, REASON_DNS_MISS, TCX_NEXT);
	}
	return drop(p, REASON_REDIRECT_FAILED);
}
