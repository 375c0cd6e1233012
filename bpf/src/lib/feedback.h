/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What this node's own connections say of a backend, and what a choice makes of it. No message is
 * needed: the next connect sees what the last one came to. Sockets tell it (feedback.bpf.c), and
 * flows that are balanced per packet (lib/outcome.h).
 *
 *   latency   of connects, and of connections that were short enough to be one request. It rises
 *             by a quarter of what a sample is above it and falls by an eighth, and it halves by
 *             the second (DECAY_SHIFT), so that who was slow is asked again after a while
 *   barred    after a connect that was refused or timed out, and after TOLERATED_RESETS: nothing
 *             new for 5, 10, 20, 40 s, by failures in a row
 *   on trial  no latency yet, or no connection that ended well since one failed: one connect at a
 *             time
 *   silent    connects are out for longer than an answer ever took: nothing new until one comes
 *
 * Connections of sockets are counted, for the kernel tells when they end. Nobody does of those that
 * the packet path balances, which forgets them when there are many: of them it is known since when
 * one asks in vain, and that is forgotten after PATIENCE_NS.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "lib/maps.h"

enum {
	DECAY_SHIFT = 30, /* ns: 1.07 s */
	LATENCY_FLOOR = 50000, /* ns; what is below differs by chance */
	LATENCY_LONGEST = 1000000000, /* ns; what takes longer was no single request */
	SILENCE_NS = 10000000, /* granted to any connect, besides SILENCE_TIMES its usual time */
	SILENCE_TIMES = 4,
	TRIAL_NS = 10000000, /* from choice to SYN it takes less */
	PATIENCE_NS = 2000000000, /* who sends no second SYN within it has given up */
	TOLERATED_RESETS = 3,
	LOAD_FRESH_NS = 1000000000, /* for so long the best latency counts as known */
};

#define BAR_NS	      5000000000ULL
#define BAR_DOUBLINGS 3

static __always_inline struct feedback *find_feedback(__u32 id)
{
	struct feedback fresh = {}, *f = bpf_map_lookup_elem(&feedbacks, &id);

	if (f)
		return f;
	bpf_map_update_elem(&feedbacks, &id, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&feedbacks, &id);
}

static __always_inline struct load *find_load(__u32 vip)
{
	struct load fresh = {}, *l = bpf_map_lookup_elem(&loads, &vip);

	if (l)
		return l;
	bpf_map_update_elem(&loads, &vip, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&loads, &vip);
}

static __always_inline struct tally *find_tally(__u32 id)
{
	struct tally *t = bpf_map_lookup_elem(&tallies, &id);
	static const struct tally fresh;

	if (t)
		return t;
	bpf_map_update_elem(&tallies, &id, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&tallies, &id);
}

/* ns since a time, which another CPU may have noted after now was read. */
static __always_inline __u64 ago(__u64 then, __u64 now)
{
	return now > then ? now - then : 0;
}

/* Latency as it counts now; 0: none is known. */
static __always_inline __u32 latency_now(const struct feedback *f, __u64 now)
{
	__u64 age = ago(f->measured, now) >> DECAY_SHIFT, latency = f->latency;

	if (!latency)
		return 0;
	latency = age < 32 ? latency >> age : 0;
	return latency > LATENCY_FLOOR ? latency : LATENCY_FLOOR;
}

static __always_inline __s32 at_least_0(__s32 n)
{
	return n > 0 ? n : 0;
}

/* How long a connect may be out until the backend counts as silent, ns. */
static __always_inline __u64 silence(const struct feedback *f)
{
	return SILENCE_NS + (__u64)SILENCE_TIMES * f->latency;
}

/* Whether a flow of the packet path is out. */
static __always_inline bool is_asked(const struct feedback *f, __u64 now)
{
	return f->asked && ago(f->asked, now) < PATIENCE_NS;
}

/* Whether connects are out for longer than this backend ever took. */
static __always_inline bool is_silent(const struct feedback *f, __u64 now)
{
	return (f->connecting > 0 && ago(f->waiting, now) > silence(f)) ||
	       (is_asked(f, now) && ago(f->asked, now) > silence(f));
}

static __always_inline bool on_trial(const struct feedback *f)
{
	return !f->latency || f->failures;
}

/* Whether the backend may get a new connection, as far as its connections tell. */
static __always_inline bool is_willing(const struct feedback *f, __u64 now)
{
	if (f->barred > now || is_silent(f, now))
		return false;
	return !on_trial(f) ||
	       (f->connecting <= 0 && !is_asked(f, now) && ago(f->tried, now) > TRIAL_NS);
}

/* Whether the caller is the one that tries a backend on trial; of any other backend: true. */
static __always_inline bool claim_trial(__u32 id)
{
	struct feedback *f = find_feedback(id);
	__u64 now = bpf_ktime_get_ns(), tried;

	if (!f || !on_trial(f))
		return true;
	tried = f->tried;
	return is_willing(f, now) && __sync_val_compare_and_swap(&f->tried, tried, now) == tried;
}

/* ---- the life of a connection -------------------------------------------------------------- */

static __always_inline void feed_connect(__u32 id, __u64 now)
{
	struct feedback *f = find_feedback(id);

	if (!f)
		return;
	if (f->connecting <= 0)
		f->waiting = now;
	__sync_fetch_and_add(&f->connecting, 1);
	__sync_fetch_and_add(&f->in_flight, 1);
}

static __always_inline __u32 bucket_of(__u64 ns)
{
	__u32 bucket = 0;

	ns /= 1000;
	for (; bucket < TALLY_BUCKETS - 1 && ns >> bucket; bucket++)
		;
	return bucket;
}

static __always_inline void feed_tally(__u32 id, __u32 sample)
{
	struct tally *t = find_tally(id);
	__u32 bucket;

	if (!t)
		return;
	bucket = bucket_of(sample);
	opaque(bucket);
	t->latency_sum += sample;
	if (bucket < TALLY_BUCKETS)
		t->latency[bucket]++;
}

/* Keeps what the best backend of the VIP does; two writers at once cost one of them a sample. */
static __always_inline void feed_load(__u32 vip, __u32 latency, __u64 now)
{
	struct load *l = find_load(vip);

	if (!l || (l->best && l->best <= latency && now - l->measured < LOAD_FRESH_NS))
		return;
	l->best = latency;
	l->measured = now;
}

static __always_inline void feed_latency(struct feedback *f, __u32 vip, __u32 sample, __u64 now)
{
	__u32 was = latency_now(f, now), is;

	if (!was)
		is = sample;
	else if (sample > was)
		is = was + (sample - was) / 4;
	else
		is = was - (was - sample) / 8;
	f->latency = is > LATENCY_FLOOR ? is : LATENCY_FLOOR;
	f->measured = now;
	feed_load(vip, f->latency, now);
}

static __always_inline __u32 elapsed(__u64 since, __u64 now)
{
	__u64 ns = now - since;

	return ns < LATENCY_LONGEST ? ns : LATENCY_LONGEST;
}

/* The backend took a connection that began at since. How long that took counts when it is news. */
static __always_inline void feed_taken(struct feedback *f, __u32 vip, __u64 since, __u64 now)
{
	__u32 took = elapsed(since, now);

	f->asked = 0;
	if (took > latency_now(f, now))
		feed_latency(f, vip, took, now);
}

static __always_inline void feed_established(const struct socket_vip *s, __u64 now)
{
	struct feedback *f = find_feedback(s->backend_id);

	if (!f)
		return;
	__sync_fetch_and_add(&f->connecting, -1);
	f->waiting = now;
	if (s->timed_out)
		f->barred = 0; /* it was only slow */
	feed_taken(f, s->vip_id, s->started, now);
}

static __always_inline void feed_bar(struct feedback *f, struct tally *t, __u64 now)
{
	__u32 doublings = f->failures - 1;

	if (f->barred <= now && t)
		t->ejections++;
	f->barred = now + (BAR_NS << (doublings < BAR_DOUBLINGS ? doublings : BAR_DOUBLINGS));
}

/* Nobody answered the SYN in time. The connection goes on trying; others keep away. */
static __always_inline void feed_timeout(__u32 id, __u64 now)
{
	struct feedback *f = find_feedback(id);
	struct tally *t = find_tally(id);

	if (t)
		t->timeouts++;
	if (!f)
		return;
	f->failures++;
	feed_bar(f, t, now);
}

/* The connect was refused, by RST or ICMP. */
static __always_inline void feed_refused(struct feedback *f, __u32 id, __u64 now)
{
	struct tally *t = find_tally(id);

	if (t)
		t->refused++;
	if (!f)
		return;
	f->failures++;
	feed_bar(f, t, now);
}

/* The connect came to nothing: refused, unreachable, or given up by who asked. */
static __always_inline void feed_failed(const struct socket_vip *s, __u64 now)
{
	struct feedback *f = find_feedback(s->backend_id);

	if (f) {
		__sync_fetch_and_add(&f->connecting, -1);
		__sync_fetch_and_add(&f->in_flight, -1);
	}
	if (!s->timed_out)
		feed_refused(f, s->backend_id, now);
}

/* A connection was cut before the backend said anything. */
static __always_inline void feed_cut(struct feedback *f, __u32 id, __u64 now)
{
	struct tally *t = find_tally(id);

	if (t)
		t->resets++;
	f->failures++;
	if (f->failures >= TOLERATED_RESETS)
		feed_bar(f, t, now);
}

/* A connection that began at since ended well. */
static __always_inline void feed_done(struct feedback *f, __u32 id, __u32 vip, __u64 since,
				      __u64 now)
{
	__u32 took = elapsed(since, now);

	f->failures = 0;
	f->barred = 0;
	if (took == LATENCY_LONGEST)
		return;
	feed_latency(f, vip, took, now);
	feed_tally(id, took);
}

/* The connection is over for one side at least; silent: cut, and the backend never said anything.
 */
static __always_inline void feed_ended(const struct socket_vip *s, bool silent, __u64 now)
{
	struct feedback *f = find_feedback(s->backend_id);

	if (!f)
		return;
	__sync_fetch_and_add(&f->in_flight, -1);
	if (silent)
		feed_cut(f, s->backend_id, now);
	else
		feed_done(f, s->backend_id, s->vip_id, s->started, now);
}
