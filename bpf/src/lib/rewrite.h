/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * What translating takes, for VIPs per packet (lib/vip.h) and for those of the edge (lib/serve.h):
 * keys, marks of links, and addresses and ports written into a packet whose sums stay right.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "headers/packet.h"
#include "lib/flow.h"
#include "lib/maps.h"
#include "lib/packet.h"

static __always_inline bool vip_carried(const struct packet *p)
{
	return p->proto == PROTO_TCP || p->proto == PROTO_UDP;
}

/* What the task of a link ever had to do with VIPs; links whose indexes agree share it. */
static __always_inline bool vip_link(__u32 ifindex, enum vip_link what)
{
	__u32 slot = ifindex % MAX_VIP_LINKS, *used = bpf_map_lookup_elem(&vip_links, &slot);

	return used && *used & what;
}

/* A mark that another CPU's overwrites is made again by the next packet. */
static __always_inline void vip_mark_link(__u32 ifindex, enum vip_link what)
{
	__u32 slot = ifindex % MAX_VIP_LINKS, *used = bpf_map_lookup_elem(&vip_links, &slot);

	if (used && !(*used & what))
		*used |= what;
}

/* Room for what one packet needs, too large for the stack. Per CPU; kernel only, not pinned. */
struct vip_scratch {
	struct flow_key key;
	struct flow_key answer;
	struct translation made;
	struct socket_peer choice;
	struct peer own;
	struct peer vip;
	struct edge_served_key served;
	struct endpoint_key endpoint;
	struct packet packet; /* where no other program made one */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct vip_scratch);
} vip_scratch SEC(".maps");

static __always_inline struct vip_scratch *vip_paper(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&vip_scratch, &zero);
}

static __always_inline void vip_flow(const struct packet *p, struct flow_key *key)
{
	key->vni = p->vni;
	key->src = p->src;
	key->dst = p->dst;
	key->sport = p->sport;
	key->dport = p->dport;
	key->proto = p->proto;
	memset(key->pad, 0, sizeof(key->pad));
}

/* Offset of the transport's sum, and the flag by which UDP's absent sum (0) stays absent. */
static __always_inline __u32 vip_sum_at(const struct packet *p)
{
	return p->l4 + (p->proto == PROTO_TCP ? __builtin_offsetof(struct tcp, checksum)
					      : __builtin_offsetof(struct udp, checksum));
}

static __always_inline __u64 vip_sum_flags(const struct packet *p)
{
	return p->proto == PROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
}

/*
 * Writes an address at an offset. Sums are changed by what changed, never made: packets of this
 * host carry but the pseudo header's part, to be finished by the device.
 */
static __always_inline int vip_write_addr(struct __sk_buff *skb, const struct packet *p, __u32 at,
					  const struct addr *was, const struct addr *is)
{
	bool sum = p->fragment != FRAGMENT_LATER;
	__u64 flags = vip_sum_flags(p) | BPF_F_PSEUDO_HDR;

	if (!is_ipv4(p)) {
		__u32 diff = bpf_csum_diff((__be32 *)was, 16, (__be32 *)is, 16, 0);

		if (sum && bpf_l4_csum_replace(skb, vip_sum_at(p), 0, diff, flags))
			return -1;
		return bpf_skb_store_bytes(skb, at, is, 16, 0);
	}
	if (bpf_l3_csum_replace(skb, p->l3 + __builtin_offsetof(struct ipv4, checksum),
				word(was, 3), word(is, 3), 4))
		return -1;
	if (sum && bpf_l4_csum_replace(skb, vip_sum_at(p), word(was, 3), word(is, 3), flags | 4))
		return -1;
	return bpf_skb_store_bytes(skb, at, is->bytes + 12, 4, 0);
}

static __always_inline int vip_write_port(struct __sk_buff *skb, const struct packet *p, __u32 at,
					  __be16 was, __be16 is)
{
	if (p->fragment == FRAGMENT_LATER || was == is)
		return 0;
	if (bpf_l4_csum_replace(skb, vip_sum_at(p), was, is, vip_sum_flags(p) | 2))
		return -1;
	return bpf_skb_store_bytes(skb, at, &is, 2, 0);
}

/* Makes to the packet's source or destination. Global, for it is needed four times. */
__noinline int vip_write(struct __sk_buff *skb, struct packet *p, bool source,
			 const struct peer *to)
{
	__u32 addr_at, port_at;
	struct addr was;
	__be16 port;

	if (!p || !to)
		return -1;
	was = source ? p->src : p->dst;
	port = source ? p->sport : p->dport;
	if (is_ipv4(p))
		addr_at = p->l3 + (source ? __builtin_offsetof(struct ipv4, src)
					  : __builtin_offsetof(struct ipv4, dst));
	else
		addr_at = p->l3 + (source ? __builtin_offsetof(struct ipv6, src)
					  : __builtin_offsetof(struct ipv6, dst));
	port_at = p->l4 + (source ? 0 : 2);
	if (vip_write_addr(skb, p, addr_at, &was, &to->addr) ||
	    vip_write_port(skb, p, port_at, port, to->port))
		return -1;
	if (source) {
		p->src = to->addr;
		p->sport = to->port;
	} else {
		p->dst = to->addr;
		p->dport = to->port;
	}
	return 0;
}

static __always_inline void vip_record(struct vip_scratch *s, const struct flow_key *key,
				       const struct peer *to, __u32 slot)
{
	s->made.to.addr = to->addr;
	s->made.to.port = to->port;
	s->made.slot = slot;
	s->made.since = bpf_ktime_get_ns();
	bpf_map_update_elem(&translations, key, &s->made, BPF_ANY);
}

/* What is known of the packet's flow, or of its datagram where it is a later fragment. */
static __always_inline struct translation *vip_known(struct __sk_buff *skb, const struct packet *p,
						     struct vip_scratch *s)
{
	vip_flow(p, &s->key);
	if (p->fragment == FRAGMENT_LATER && datagram_of(skb, p, &s->key))
		return NULL;
	return bpf_map_lookup_elem(&translations, &s->key);
}

/* Leaves to later fragments, which have no ports, what the first one was translated to. */
static __always_inline void vip_lead(struct __sk_buff *skb, const struct packet *p,
				     struct vip_scratch *s)
{
	if (p->fragment != FRAGMENT_FIRST || datagram_of(skb, p, &s->key))
		return;
	vip_record(s, &s->key, &s->choice.to, 0);
}
