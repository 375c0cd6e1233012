// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * What becomes of connections to VIPs, for the next choice (lib/feedback.h). Sockets that went to
 * no VIP are met once, at their SYN, and let go.
 *
 *   SYN sent          counted, and asked to tell of the rest          begin
 *   no answer         the backend is barred                           timed_out
 *   established       latency of the connect, failures forgotten      moved
 *   refused, ICMP     the backend is barred                           moved
 *   first FIN, reset  latency of the whole, counted out, let go       moved
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "lib/feedback.h"
#include "lib/maps.h"

enum {
	WATCHED = BPF_SOCK_OPS_RTO_CB_FLAG | BPF_SOCK_OPS_STATE_CB_FLAG,
};

static __always_inline struct socket_vip *find_socket(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&socket_vips, sk, NULL, 0) : NULL;
}

static __always_inline void watch(struct bpf_sock_ops *ctx, int events)
{
	bpf_sock_ops_cb_flags_set(ctx, (ctx->bpf_sock_ops_cb_flags & ~WATCHED) | events);
}

static __always_inline void begin(struct bpf_sock_ops *ctx, struct socket_vip *s)
{
	s->started = bpf_ktime_get_ns();
	s->state = SOCKET_CONNECTING;
	s->timed_out = 0;
	feed_connect(s->backend_id, s->started);
	watch(ctx, WATCHED);
}

static __always_inline void timed_out(struct socket_vip *s)
{
	if (s->state != SOCKET_CONNECTING || s->timed_out)
		return;
	s->timed_out = 1;
	feed_timeout(s->backend_id, bpf_ktime_get_ns());
}

static __always_inline void moved(struct bpf_sock_ops *ctx, struct socket_vip *s)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 to = ctx->args[1];

	if (s->state == SOCKET_CONNECTING && to == TCP_STATE_ESTABLISHED) {
		s->state = SOCKET_OPEN;
		feed_established(s, now);
		watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
		return;
	}
	if (s->state == SOCKET_CONNECTING && to == TCP_STATE_CLOSE)
		feed_failed(s, now);
	else if (s->state == SOCKET_OPEN)
		feed_ended(s, to == TCP_STATE_CLOSE && !ctx->bytes_received, now);
	else
		return;
	s->state = SOCKET_IDLE;
	watch(ctx, 0);
}

SEC("sockops")
int feedback(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;
	struct socket_vip *s;

	if (op != BPF_SOCK_OPS_TCP_CONNECT_CB && op != BPF_SOCK_OPS_RTO_CB &&
	    op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	s = find_socket(ctx);
	if (!s || !s->backend_id)
		return 1;
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		begin(ctx, s);
	else if (op == BPF_SOCK_OPS_RTO_CB)
		timed_out(s);
	else
		moved(ctx, s);
	return 1;
}

char licence[] SEC("license") = "Dual BSD/GPL";
