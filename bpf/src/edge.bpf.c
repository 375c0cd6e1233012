// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * VIPs for clients outside of every network, on the nodes that take them in. Answers go from the
 * backend's node straight to the client.
 *
 *   1. read the flow                              lib/edge_parse.h
 *   2. the VIP, its slot, the slot's backend      lib/edge_steer.h
 *   3. fits the way to its node? if not, the client is told    lib/toobig.h
 *   4. a task of this node: delivered             lib/serve.h
 *   5. into the tunnel, out of the device         lib/edge_frame.h
 *   6. count                                      lib/edge_count.h
 *
 * edge_tc also answers who asks for the address of a VIP that this node leads
 * (lib/edge_neighbour.h).
 *
 * edge     XDP, where the device has it: takes what it can send at once.
 * edge_tc  ingress, on every such device: the rest, which the kernel has to find a way for.
 *
 * What is not for a VIP goes on as if they were not there, and is not counted.
 */

#include "headers/xdp.h"
#include "lib/edge_count.h"
#include "lib/edge_frame.h"
#include "lib/edge_neighbour.h"
#include "lib/edge_steer.h"
#include "lib/serve.h"
#include "lib/toobig.h"

static __always_inline bool no_mac(const __u8 *mac)
{
	return !(get32(mac) | get16(mac + 4));
}

/* Asks the kernel's routes and neighbours. Global: to be verified once. */
__noinline int find_hop(struct xdp_md *ctx, __be32 node, struct bpf_fib_lookup *way)
{
	if (!way)
		return -1;
	way->family = AF_INET;
	way->l4_protocol = PROTO_UDP;
	way->ifindex = ctx->ingress_ifindex;
	way->src[0] = node_addr4;
	way->dst[0] = node;
	return bpf_fib_lookup(ctx, way, sizeof(*way), 0);
}

/* By a neighbour that Go knows: back out of the device it came in by. */
static __always_inline int send_known(struct xdp_md *ctx, struct edge_packet *e,
				      const struct edge_backend *b, __u32 hash15)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 own_high;
	__u16 own_low;

	if (data + sizeof(struct ethernet) > end)
		return XDP_PASS;
	own_high = get32(data);
	own_low = get16(data + 4);
	e->reason = REASON_ENCAP_FAILED;
	if (bpf_xdp_adjust_head(ctx, -(int)TUNNEL_ROOM))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + sizeof(struct tunnel_frame) > end)
		return XDP_DROP;
	put32(data, get32(b->hop));
	put16(data + 4, get16(b->hop + 4));
	put32(data + 6, own_high);
	put16(data + 10, own_low);
	edge_frame(data, e, b, e->len, hash15);
	e->reason = REASON_ENCAPSULATED;
	return XDP_TX;
}

static __always_inline int send_routed(struct xdp_md *ctx, struct edge_packet *e,
				       const struct edge_backend *b, __u32 hash15)
{
	struct bpf_fib_lookup way = {};
	void *data, *end;

	if (find_hop(ctx, edge_node(b), &way) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS; /* edge_tc: the kernel asks for the neighbour */
	e->reason = REASON_ENCAP_FAILED;
	if (bpf_xdp_adjust_head(ctx, -(int)TUNNEL_ROOM))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + sizeof(struct tunnel_frame) > end)
		return XDP_DROP;
	memcpy(data, way.dmac, 6);
	memcpy(data + 6, way.smac, 6);
	edge_frame(data, e, b, e->len, hash15);
	e->reason = REASON_ENCAPSULATED;
	if (way.ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(way.ifindex, 0);
}

static __always_inline int walk_xdp(struct xdp_md *ctx, struct edge_packet *e)
{
	const void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	const struct edge_backend *b;
	__u32 hash15 = 0;

	e->len = end - data;
	b = edge_steer(data, end, e, &hash15);
	if (!b)
		return e->reason ? XDP_DROP : XDP_PASS;
	if (edge_node(b) == node_addr4 || e->l3_len > b->mtu) /* edge_tc delivers, or tells */
		return XDP_PASS;
	return no_mac(b->hop) ? send_routed(ctx, e, b, hash15) : send_known(ctx, e, b, hash15);
}

SEC("xdp")
int edge(struct xdp_md *ctx)
{
	struct edge_packet e = {};
	int action = walk_xdp(ctx, &e);

	if (e.reason)
		edge_count(&e, ctx->ingress_ifindex);
	return action;
}

enum {
	/* What a walk reads at most: an ICMP error with options inside and outside. */
	EDGE_READ = sizeof(struct ethernet) + 60 + sizeof(struct icmp) + 60 + 8,
};

/* Size of the largest IP packet that skb becomes: of one segment, where it is to be segmented. */
static __always_inline __u32 edge_largest(struct __sk_buff *skb, const struct edge_packet *e)
{
	if (skb->gso_size)
		return e->headers + skb->gso_size;
	return e->l3_len;
}

static __always_inline int send_skb(struct __sk_buff *skb, struct edge_packet *e,
				    const struct edge_backend *b, __u32 hash15)
{
	__u32 size = skb->len;
	void *data, *end;

	e->reason = REASON_ENCAP_FAILED;
	if (bpf_skb_adjust_room(skb, TUNNEL_ROOM, BPF_ADJ_ROOM_MAC, TUNNEL_FLAGS))
		return TCX_DROP;
	bpf_set_hash_invalid(skb);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (data + sizeof(struct tunnel_frame) > end)
		return TCX_DROP;
	edge_frame(data, e, b, size, hash15);
	e->reason = REASON_ENCAPSULATED;
	return bpf_redirect_neigh(underlay_ifindex, NULL, 0, 0);
}

/* To a task of this node, as if it had come by the tunnel. Global, for the stack's sake. */
__noinline int serve_here(struct __sk_buff *skb, const struct edge_backend *b)
{
	struct vip_scratch *s = vip_paper();
	struct edge_task task;
	struct packet *p;
	int verdict;

	if (!b || !s)
		return TCX_DROP;
	p = &s->packet;
	memset(p, 0, sizeof(*p));
	p->len = skb->len;
	p->vni = b->vni;
	p->src_identity = IDENTITY_WORLD;
	memcpy(task.bytes, b->task, sizeof(task));
	verdict = parse(skb, p, 0);
	if (verdict == CONTINUE)
		verdict = serve(skb, p, &task, 0, 0);
	count(skb, p, PROGRAM_EDGE);
	return verdict;
}

/* The client is told by the VIP, out of the device that it came in by. Global, for the stack's
 * sake. */
__noinline int tell_client(struct __sk_buff *skb, const struct edge_packet *e, __u32 mtu)
{
	struct told t;
	__u8 macs[12];

	if (!e || !e->dont_fragment || e->quoted || skb->len < sizeof(struct ethernet) + QUOTE ||
	    bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return -1;
	memcpy(t.to_mac, macs + 6, 6);
	memcpy(t.from_mac, macs, 6);
	t.to = e->flow.client;
	t.from = e->flow.vip.addr;
	return e->ethertype == bpf_htons(ETHERTYPE_IPV4) ? tell_ipv4(skb, &t, mtu)
							 : tell_ipv6(skb, &t, mtu);
}

static __always_inline int refuse_size(struct __sk_buff *skb, struct edge_packet *e, __u32 mtu)
{
	if (tell_client(skb, e, mtu)) {
		e->reason = REASON_TOO_BIG;
		return TCX_DROP;
	}
	e->reason = REASON_ANSWERED_TOO_BIG;
	return bpf_redirect(skb->ifindex, 0);
}

static __always_inline int walk_tc(struct __sk_buff *skb, struct edge_packet *e)
{
	const struct edge_backend *b;
	__u32 hash15 = 0;

	if (skb->vlan_present)
		return TCX_NEXT;
	if (skb->data_end - skb->data < EDGE_READ)
		bpf_skb_pull_data(skb, skb->len < EDGE_READ ? skb->len : EDGE_READ);
	e->len = skb->len;
	b = edge_steer((void *)(long)skb->data, (void *)(long)skb->data_end, e, &hash15);
	if (!b && e->reason)
		return TCX_DROP;
	if (!b) {
		if (may_ask(skb))
			e->reason = answer_neighbours(skb);
		return e->reason ? bpf_redirect(skb->ifindex, 0) : TCX_NEXT;
	}
	if (edge_largest(skb, e) > b->mtu)
		return refuse_size(skb, e, b->mtu);
	if (edge_node(b) == node_addr4)
		return serve_here(skb, b);
	return send_skb(skb, e, b, hash15);
}

SEC("tc")
int edge_tc(struct __sk_buff *skb)
{
	struct edge_packet e = {};
	int action = walk_tc(skb, &e);

	if (e.reason)
		edge_count(&e, skb->ifindex);
	return action;
}

char licence[] SEC("license") = "Dual BSD/GPL";
