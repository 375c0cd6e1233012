/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Names. */

#include "shared/types.h"

/* Bytes of resource records kept per answer. */
enum dns_size {
	DNS_DATA = 40, /* an element of the kernel's hash has 128 bytes: two cache lines */
	DNS_LONG_DATA = 448, /* longer ones go to the server */
};

/*
 * dns_answers and dns_long: LRU; Go writes (answers learnt from misses), the kernel half reads. An
 * answer is in the map of its size.
 */
struct dns_key {
	__u64 hash[2]; /* of the lower-cased wire name, two independent seeds */
	__u32 vni; /* view of the asker, 0: host */
	__u16 qtype;
	__u16 len; /* of the wire name, bytes */
};

_Static_assert(sizeof(struct dns_key) == 24, "dns_key");

struct dns_answer {
	__u16 len; /* of data in use */
	__u8 rcode;
	__u8 rotate; /* bytes per answer record when all have one size: rotated per query; 0: no */
	__u16 ancount;
	__u16 nscount;
	__u16 arcount;
	__u16 mark; /* another one each time the row is written; with stamp it frames data */
	__u8 data[DNS_DATA]; /* records; names as compression pointers into the question */
	__u32 stamp; /* of hash[0] and mark (dns_sealed): a torn read is seen and passed on */
};

_Static_assert(sizeof(struct dns_answer) == 56, "dns_answer");

/* The same with more room; up to data both are one. */
struct dns_long {
	__u16 len;
	__u8 rcode;
	__u8 rotate;
	__u16 ancount;
	__u16 nscount;
	__u16 arcount;
	__u16 mark;
	__u8 data[DNS_LONG_DATA];
	__u32 stamp;
};

_Static_assert(sizeof(struct dns_long) == 464, "dns_long");
