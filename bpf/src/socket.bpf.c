// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * VIPs at connect time, for every socket of a process in the cgroup: the packet path then carries
 * the client's own address to the backend, and nothing is translated per packet.
 *
 *   connect, and sendmsg with an address
 *     the VIP of (network of the socket's namespace, address, port, protocol) -> none: untouched
 *     a backend -> none: refused, as a closed port would
 *     what was asked for is remembered, and the backend put in its place
 *   recvmsg, getpeername
 *     where the address is that of a remembered backend, the VIP is shown
 *
 * Addresses are 128 bit in all of them, so an IPv6 socket that speaks IPv4 finds the same VIPs.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "headers/packet.h"
#include "lib/backend.h"
#include "lib/maps.h"
#include "lib/packet.h"

enum {
	PROTO_MPTCP = 262, /* what a socket says; TCP on the wire (RFC 8684) */
};

/* What is to be done with the address of the call. */
enum outcome {
	UNTOUCHED,
	REWRITE,
	REFUSE,
};

static __always_inline __u8 socket_proto(const struct bpf_sock_addr *ctx)
{
	__u32 proto = ctx->protocol;

	if (proto == PROTO_TCP || proto == PROTO_MPTCP)
		return PROTO_TCP;
	return proto == PROTO_UDP ? PROTO_UDP : 0;
}

static __always_inline void read4(const struct bpf_sock_addr *ctx, struct peer *peer)
{
	set_addr4(&peer->addr, ctx->user_ip4);
	peer->port = ctx->user_port;
	peer->pad = 0;
}

static __always_inline void read6(const struct bpf_sock_addr *ctx, struct peer *peer)
{
	__be32 *words = (__be32 *)peer->addr.bytes;

	words[0] = ctx->user_ip6[0];
	words[1] = ctx->user_ip6[1];
	words[2] = ctx->user_ip6[2];
	words[3] = ctx->user_ip6[3];
	peer->port = ctx->user_port;
	peer->pad = 0;
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const struct peer *peer)
{
	ctx->user_ip4 = word(&peer->addr, 3);
	ctx->user_port = peer->port;
}

static __always_inline void write6(struct bpf_sock_addr *ctx, const struct peer *peer)
{
	ctx->user_ip6[0] = word(&peer->addr, 0);
	ctx->user_ip6[1] = word(&peer->addr, 1);
	ctx->user_ip6[2] = word(&peer->addr, 2);
	ctx->user_ip6[3] = word(&peer->addr, 3);
	ctx->user_port = peer->port;
}

static __always_inline bool same_peer(const struct peer *a, const struct peer *b)
{
	return a->port == b->port && same_addr(&a->addr, &b->addr);
}

/* space: of the socket's namespace, where there is a VIP. */
static __always_inline struct vip *find_vip(struct bpf_sock_addr *ctx, const struct peer *to,
					    struct space **space)
{
	struct vip_key key = {.addr = to->addr, .port = to->port, .proto = socket_proto(ctx)};
	__u64 cookie = bpf_get_netns_cookie(ctx);

	if (!key.proto)
		return NULL;
	*space = bpf_map_lookup_elem(&spaces, &cookie);
	if (!*space)
		return NULL;
	key.vni = (*space)->vni;
	return bpf_map_lookup_elem(&vips, &key);
}

/* No backend, or none of the socket's family. */
static __always_inline enum outcome refuse(void)
{
	__u32 reason = REASON_NO_BACKEND;
	struct counter *c = bpf_map_lookup_elem(&counters, &reason);

	if (c)
		c->packets++;
	bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

/*
 * The client's hash, by the address that its namespace connects from. A socket that has no port yet
 * has a number instead.
 */
static __always_inline __u32 hash_of(struct bpf_sock_addr *ctx, const struct vip *vip,
				     const struct space *space, bool v4)
{
	struct bpf_sock *sk = ctx->sk;
	__u64 part = 0;

	if (vip->policy != VIP_MAGLEV)
		return 0;
	if (!vip->affinity && sk)
		part = bpf_htons(sk->src_port);
	if (!vip->affinity && !part)
		part = bpf_get_socket_cookie(ctx);
	return client_hash(v4 ? &space->addr4 : &space->addr6, part);
}

/* For affinity a client is a namespace. Returns the backend's id, or 0. */
static __always_inline __u32 choose(struct bpf_sock_addr *ctx, const struct vip *vip,
				    const struct space *space, const struct peer *asked,
				    struct socket_peer *choice)
{
	__u32 hash = hash_of(ctx, vip, space, is_mapped(&asked->addr));
	__u64 cookie = bpf_get_netns_cookie(ctx);
	struct addr client = {};
	__u32 id;

	memcpy(client.bytes, &cookie, sizeof(cookie));
	id = choose_backend(vip, &client, choice, socket_proto(ctx) == PROTO_TCP, hash);
	return is_mapped(&choice->to.addr) == is_mapped(&asked->addr) ? id : 0;
}

static __always_inline void chosen(__u32 id)
{
	struct tally *t = find_tally(id);

	if (t)
		t->chosen++;
}

/* to: what the caller asked for, then where it goes. */
static __always_inline enum outcome connect(struct bpf_sock_addr *ctx, struct peer *to)
{
	struct space *space = NULL;
	struct vip *vip = find_vip(ctx, to, &space);
	struct bpf_sock *sk = ctx->sk;
	struct socket_peer choice = {};
	struct socket_vip *kept;
	__u32 id;

	if (!vip) {
		/* A UDP socket may have been connected to a VIP before. */
		if (sk && bpf_sk_storage_get(&socket_vips, sk, NULL, 0))
			bpf_sk_storage_delete(&socket_vips, sk);
		return UNTOUCHED;
	}
	id = choose(ctx, vip, space, to, &choice);
	if (!id)
		return refuse();
	chosen(id);
	kept = sk ? bpf_sk_storage_get(&socket_vips, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE) : NULL;
	if (kept) { /* else memory is short, and getpeername will show the backend */
		kept->vip = *to;
		kept->backend = choice.to;
		kept->vip_id = vip->id;
		kept->backend_id = id;
		kept->state = SOCKET_IDLE;
		kept->sends = false;
	}
	*to = choice.to;
	return REWRITE;
}

/* Remembers that what the socket hears from a backend is of the VIP. */
static __always_inline void remember_answers(__u64 cookie, const struct peer *vip,
					     const struct peer *backend)
{
	struct socket_peer_key key = {.cookie = cookie, .peer = *backend};
	struct socket_peer value = {.to = *vip}, *known;

	known = bpf_map_lookup_elem(&socket_peers, &key);
	if (!known || !same_peer(&known->to, vip))
		bpf_map_update_elem(&socket_peers, &key, &value, BPF_ANY);
}

/* Puts the VIP that a socket sends to before all others that it sent to. */
static __always_inline void remember_last(struct bpf_sock *sk, const struct peer *vip,
					  const struct socket_peer *choice)
{
	struct socket_vip *kept;

	kept = sk ? bpf_sk_storage_get(&socket_vips, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE) : NULL;
	if (!kept || (kept->vip.port && !kept->sends)) /* memory is short, or it is connected */
		return;
	kept->vip = *vip;
	kept->backend = choice->to;
	kept->slot = choice->slot;
	kept->sends = true;
}

/* To the backend that the socket sent to last, where that was of the same VIP and is there. */
static __always_inline bool send_again(struct bpf_sock *sk, const struct vip *vip, struct peer *to)
{
	struct socket_vip *kept = sk ? bpf_sk_storage_get(&socket_vips, sk, NULL, 0) : NULL;
	struct socket_peer choice = {};

	if (!kept || !kept->sends || !same_peer(&kept->vip, to))
		return false;
	choice.to = kept->backend;
	choice.slot = kept->slot;
	if (keep_backend(vip, &choice, false))
		return false;
	kept->slot = choice.slot;
	*to = choice.to;
	return true;
}

/* As connect, for one datagram; those that follow go to the same backend while it is there. */
static __always_inline enum outcome send(struct bpf_sock_addr *ctx, struct peer *to)
{
	struct space *space = NULL;
	struct vip *vip = find_vip(ctx, to, &space);
	struct socket_peer_key key = {};
	struct socket_peer choice = {}, *known;
	struct bpf_sock *sk = ctx->sk;
	__u32 id;

	if (!vip)
		return UNTOUCHED;
	if (send_again(sk, vip, to))
		return REWRITE;
	key.cookie = bpf_get_socket_cookie(ctx);
	key.peer = *to;
	known = bpf_map_lookup_elem(&socket_peers, &key);
	if (known)
		choice = *known;
	if (!known || keep_backend(vip, &choice, false)) {
		id = choose(ctx, vip, space, to, &choice);
		if (!id)
			return refuse();
		chosen(id);
		bpf_map_update_elem(&socket_peers, &key, &choice, BPF_ANY);
	} else if (choice.slot != known->slot) {
		known->slot = choice.slot;
	}
	remember_answers(key.cookie, to, &choice.to);
	remember_last(sk, to, &choice);
	*to = choice.to;
	return REWRITE;
}

static __always_inline struct socket_vip *kept_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&socket_vips, sk, NULL, 0) : NULL;
}

/* Whether the socket is connected to a VIP by way of the backend at; at becomes the VIP. */
static __always_inline enum outcome show_connected(struct bpf_sock_addr *ctx, struct peer *at)
{
	struct socket_vip *kept = kept_of(ctx);

	if (!kept || kept->sends || !same_peer(&kept->backend, at))
		return UNTOUCHED;
	*at = kept->vip;
	return REWRITE;
}

static __always_inline enum outcome show_sender(struct bpf_sock_addr *ctx,
						const struct socket_vip *kept, struct peer *from)
{
	struct socket_peer_key key = {.peer = *from};
	struct socket_peer *known;

	if (same_peer(&kept->backend, from)) {
		*from = kept->vip;
		return REWRITE;
	}
	key.cookie = bpf_get_socket_cookie(ctx);
	known = bpf_map_lookup_elem(&socket_peers, &key);
	if (!known)
		return UNTOUCHED;
	*from = known->to;
	return REWRITE;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	struct peer to;
	enum outcome outcome;

	read4(ctx, &to);
	outcome = connect(ctx, &to);
	if (outcome == REWRITE)
		write4(ctx, &to);
	return outcome != REFUSE;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct peer to;
	enum outcome outcome;

	read6(ctx, &to);
	outcome = connect(ctx, &to);
	if (outcome == REWRITE)
		write6(ctx, &to);
	return outcome != REFUSE;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct peer to;
	enum outcome outcome;

	read4(ctx, &to);
	outcome = send(ctx, &to);
	if (outcome == REWRITE)
		write4(ctx, &to);
	return outcome != REFUSE;
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	struct peer to;
	enum outcome outcome;

	read6(ctx, &to);
	outcome = send(ctx, &to);
	if (outcome == REWRITE)
		write6(ctx, &to);
	return outcome != REFUSE;
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	struct socket_vip *kept = kept_of(ctx);
	struct peer from;

	if (!kept) /* it never asked a VIP, as a server does not */
		return 1;
	read4(ctx, &from);
	if (show_sender(ctx, kept, &from) == REWRITE)
		write4(ctx, &from);
	return 1;
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	struct socket_vip *kept = kept_of(ctx);
	struct peer from;

	if (!kept) /* it never asked a VIP, as a server does not */
		return 1;
	read6(ctx, &from);
	if (show_sender(ctx, kept, &from) == REWRITE)
		write6(ctx, &from);
	return 1;
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	struct peer at;

	read4(ctx, &at);
	if (show_connected(ctx, &at) == REWRITE)
		write4(ctx, &at);
	return 1;
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	struct peer at;

	read6(ctx, &at);
	if (show_connected(ctx, &at) == REWRITE)
		write6(ctx, &at);
	return 1;
}

char licence[] SEC("license") = "Dual BSD/GPL";
