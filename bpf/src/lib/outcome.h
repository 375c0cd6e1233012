/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What became of a flow that is balanced per packet, as its packets tell, for the next choice
 * (lib/feedback.h). What is established passes by but for one test of its flags.
 *
 *   there   SYN                asked
 *           SYN again          nobody answered, when that takes longer than it ever did
 *           RST                over: well, when the backend had said something
 *   back    SYN-ACK            latency of the connect
 *           RST, not answered  refused
 *           FIN                ended well, latency of the whole
 *           RST                ended well, or cut when the backend had said nothing
 *           first datagram     ended well, and no more: UDP has neither connect nor end
 *           ICMP unreachable   refused
 */

#include "headers/packet.h"
#include "lib/feedback.h"
#include "lib/maps.h"
#include "lib/packet.h"

static __always_inline struct feedback *feedback_of(const struct translation *t)
{
	__u32 id = t->backend_id;

	return bpf_map_lookup_elem(&feedbacks, &id);
}

/* A new flow was given a backend. Nobody waits for UDP, which has no connect. Global: a fresh row
 * would not fit the caller's stack. */
__noinline int outcome_asked(__u32 id, __u32 proto)
{
	struct tally *t = find_tally(id);
	__u64 now = bpf_ktime_get_ns();
	struct feedback *f;

	if (t)
		t->chosen++;
	f = proto == PROTO_TCP ? find_feedback(id) : NULL;
	if (f && !is_asked(f, now))
		f->asked = now;
	return 0;
}

/*
 * Whether the SYN, or datagram, of a flow that is known is to choose a backend anew: what was
 * before is over, or the backend is silent, or known to fail. Global, for what it feeds.
 */
__noinline int outcome_again(const struct translation *t, __u32 proto)
{
	struct feedback *f;
	__u64 now;

	if (!t || !t->backend_id)
		return false;
	if (t->state == TRANSLATION_OVER)
		return true;
	if (proto != PROTO_TCP)
		return false;
	f = feedback_of(t);
	now = bpf_ktime_get_ns();
	if (f && f->barred > now)
		return true;
	if (t->state != TRANSLATION_ASKED || ago(t->since, now) <= (f ? silence(f) : SILENCE_NS))
		return false;
	feed_timeout(t->backend_id, now);
	return true;
}

/* A word of the TCP header. */
static __always_inline __be32 tcp_word(struct __sk_buff *skb, const struct packet *p, __u32 at)
{
	__be32 found = 0;

	bpf_skb_load_bytes(skb, p->l4 + at, &found, sizeof(found));
	return found;
}

/* The task has done with a connection. Global, as outcome_back. */
__noinline int outcome_left(struct __sk_buff *skb, const struct packet *p, struct translation *t)
{
	struct feedback *f;

	if (!p || !t || !t->backend_id)
		return 0;
	f = t->state == TRANSLATION_ANSWERED ? feedback_of(t) : NULL;
	t->state = TRANSLATION_OVER;
	if (f && p->tcp & TCP_ACK &&
	    tcp_word(skb, p, __builtin_offsetof(struct tcp, ack)) != t->first)
		feed_done(f, t->backend_id, t->vip_id, t->since, bpf_ktime_get_ns());
	return 0;
}

/* Whether what a backend says may tell of the flow that it belongs to. */
static __always_inline bool tells_outcome(const struct packet *p, const struct translation *t)
{
	if (p->proto == PROTO_TCP)
		return p->tcp & (TCP_SYN | TCP_RST | TCP_FIN);
	return t->state == TRANSLATION_ASKED;
}

static __always_inline void outcome_datagram(struct translation *t)
{
	struct feedback *f = feedback_of(t);

	t->state = TRANSLATION_ANSWERED;
	if (!f)
		return;
	f->failures = 0;
	f->barred = 0;
}

/* The backend takes the connection, or refuses it. */
static __always_inline void outcome_first(const struct packet *p, struct translation *t,
					  struct feedback *f, __be32 seq, __u64 now)
{
	if (p->tcp & TCP_RST) {
		t->state = TRANSLATION_OVER;
		f->asked = 0;
		feed_refused(f, t->backend_id, now);
	} else if ((p->tcp & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
		t->state = TRANSLATION_ANSWERED;
		t->first = bpf_htonl(bpf_ntohl(seq) + 1);
		feed_taken(f, t->vip_id, t->since, now);
	}
}

/* The backend says it, p tells_outcome. Global: off the way of what is established. */
__noinline int outcome_back(struct __sk_buff *skb, const struct packet *p, struct translation *t)
{
	struct feedback *f;
	__be32 seq;
	__u64 now;

	if (!p || !t || !t->backend_id)
		return 0;
	if (p->proto != PROTO_TCP) {
		outcome_datagram(t);
		return 0;
	}
	f = find_feedback(t->backend_id);
	if (!f)
		return 0;
	seq = tcp_word(skb, p, __builtin_offsetof(struct tcp, seq));
	now = bpf_ktime_get_ns();
	if (t->state == TRANSLATION_ASKED) {
		outcome_first(p, t, f, seq, now);
	} else if (t->state == TRANSLATION_ANSWERED && p->tcp & (TCP_RST | TCP_FIN)) {
		t->state = TRANSLATION_OVER;
		if (p->tcp & TCP_FIN || seq != t->first)
			feed_done(f, t->backend_id, t->vip_id, t->since, now);
		else
			feed_cut(f, t->backend_id, now);
	}
	return 0;
}

/* ICMP says that a packet of the flow found nobody. An established connection outlives that. */
__noinline int outcome_unreachable(struct translation *t, __u32 proto)
{
	struct feedback *f;

	if (!t || !t->backend_id)
		return 0;
	if (t->state == TRANSLATION_ASKED) {
		f = find_feedback(t->backend_id);
		if (f)
			f->asked = 0;
		feed_refused(f, t->backend_id, bpf_ktime_get_ns());
	} else if (proto == PROTO_TCP || t->state != TRANSLATION_ANSWERED) {
		return 0;
	}
	t->state = TRANSLATION_OVER;
	return 0;
}
