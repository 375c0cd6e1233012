/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/* Who may talk. */

#include "shared/layout.h"

enum verdict_source {
	VERDICT_PREFIX = 1U << 31, /* with it, verdict_key.src is a value of sources */
};

/*
 * verdicts: (src, dst) pairs of a network, compiled for the identities of this node's tasks. One
 * look-up, whatever the number of groups and rules; no row is a drop. Go writes.
 */
struct verdict_key {
	__u32 vni;
	__u32 src; /* enum identity, or enum verdict_source */
	__u32 dst; /* enum identity */
};

_Static_assert(sizeof(struct verdict_key) == 12, "verdict_key");

enum verdict_action {
	VERDICT_DENY = 0,
	VERDICT_ALLOW = 1,
	VERDICT_AUDIT = 2, /* would be denied: pass, count and report */
	VERDICT_NONE = 3, /* neither groups nor rules say anything: a drop */
	VERDICT_PAGE = 4, /* of a clause: rule is the page that goes on */
};

struct verdict {
	__u64 clauses; /* id of clauses, if protocol and port decide; 0: what follows holds for all
			*/
	__u32 rule; /* id of the rule that decided, 0: common groups */
	__u8 action;
	__u8 pad[3];
};

_Static_assert(sizeof(struct verdict) == 16, "verdict");

/*
 * What a verdict says of (protocol, port) from start on, up to the next clause's start. A range of
 * ports takes two clauses, however wide it is.
 */
struct clause {
	__u32 start; /* protocol << 24 | port << 8 | enum verdict_action, host order */
	__u32 rule;
};

enum clauses_size {
	CLAUSES_MAX = 32, /* of a row */
};

/* ICMPv6 is asked for as ICMP (1); what has no ports, and later fragments, as port 0. */
struct clauses_key {
	__u64 id; /* hash of all pages: rows never change, equal verdicts share them */
	__u32 page; /* 0: the first, whose clauses may lead to others */
	__u32 pad;
};

_Static_assert(sizeof(struct clauses_key) == 16, "clauses_key");

/* clauses: ascending by start; the first row's first starts at 0. Go writes. */
struct clauses {
	__u32 count;
	__u32 pad;
	struct clause list[CLAUSES_MAX];
};

_Static_assert(sizeof(struct clauses) == 264, "clauses");

/* sources: LPM trie of the addresses of the world that rules of a network name. Go writes. */
struct source_key {
	__u32 len; /* 32 of the VNI and those of the 128-bit form: IPv4 /8 is 136 */
	__u32 vni;
	struct addr addr;
};

_Static_assert(sizeof(struct source_key) == 24, "source_key");

struct source {
	__u32 src; /* VERDICT_PREFIX | lowest id of the rules that name exactly this prefix */
};
