// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * VIPs for clients outside of every network, on the nodes that take them in. Answers go from the
 * backend's node straight to the client.
 *
 *   1. read the flow                              lib/edge_parse.h
 *   2. the VIP, its slot, the slot's backend      lib/edge_steer.h
 *   3. fits the way to its node? if not, the client is told    lib/toobig.h
 *   4. a task of this node: delivered             lib/serve.h
 *   5. into the tunnel, out of the device         lib/edge_hop.h, lib/edge_frame.h
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
#include "lib/edge_hop.h"
#include "lib/edge_neighbour.h"
#include "lib/edge_steer.h"
#include "lib/serve.h"
#include "lib/toobig.h"

static __always_inline int send_xdp(struct xdp_md *ctx, struct edge_packet *e,
				    const struct edge_backend *b, __u32 hash15)
{
	const struct edge_hop *hop = edge_hop_to(ctx, &b->vtep);
	void *data, *end;

	if (!hop)
		return XDP_PASS; /* edge_tc: the kernel asks for the neighbour */
	e->reason = REASON_ENCAP_FAILED;
	if (bpf_xdp_adjust_head(ctx, -(int)inner()))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (edge_frame(data, end, e, b, e->len, hash15))
		return XDP_DROP;
	memcpy(data, hop->macs, sizeof(hop->macs));
	e->reason = REASON_ENCAPSULATED;
	if (hop->egress == ctx->ingress_ifindex)
		return XDP_TX;
	return bpf_redirect(hop->egress, 0);
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
	if (edge_here(b) || e->l3_len > b->mtu) /* edge_tc delivers, or tells */
		return XDP_PASS;
	return send_xdp(ctx, e, b, hash15);
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
	if (bpf_skb_adjust_room(skb, inner(), BPF_ADJ_ROOM_MAC,
				underlay6 ? TUNNEL_FLAGS6 : TUNNEL_FLAGS))
		return TCX_DROP;
	bpf_set_hash_invalid(skb);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	if (edge_frame(data, end, e, b, size, hash15))
		return TCX_DROP;
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
	if (edge_here(b))
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
