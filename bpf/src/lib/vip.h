/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#pragma once

/*
 * VIPs per packet, for tasks whose sockets the cgroup programs do not see.
 *
 *             task T:p                                    backend B:b
 *   vip_out   T:p -> V:v   becomes   T:p -> B:b    ==>
 *   vip_in    T:p <- V:v   becomes   T:p <- B:b    <==    of the task's side too: B sees T itself
 *
 * A task may be its own backend (B is T). A packet from its own address it would not take, so both
 * directions are translated where they leave it, and each side sees the VIP:
 *
 *   vip_out   T:p -> V:v   becomes   V:p -> T:b           as if V asked
 *   vip_out   T:b -> V:p   becomes   V:v -> T:p           and V answered
 *
 * translations remembers each flow twice, keyed by the packet as it is met; vip_links remembers
 * which links did this ever, so that all others pay one array look-up.
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "headers/packet.h"
#include "lib/backend.h"
#include "lib/maps.h"
#include "lib/packet.h"

enum {
	VIP_CHOICES = 3, /* backends tried for one whose answers can be told apart */
};

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

/*
 * Later fragments have no ports; the first one leaves a translation for them, whose key has the
 * datagram's id in place of the ports.
 */
static __always_inline int vip_fragment(struct __sk_buff *skb, const struct packet *p,
					struct flow_key *key)
{
	__be32 id = 0;
	long failed;

	if (is_ipv4(p))
		failed = bpf_skb_load_bytes(skb, p->l3 + __builtin_offsetof(struct ipv4, id), &id,
					    2);
	else /* the last header before the ports, as RFC 8200 4.1 orders them */
		failed = bpf_skb_load_bytes(skb, p->l4 - 4, &id, 4);
	vip_flow(p, key);
	key->sport = id & 0xffff;
	key->dport = id >> 16;
	key->proto = PROTO_FRAGMENT;
	return failed ? -1 : 0;
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

/* Gives the packet a backend, or what the backend sends to itself by way of a VIP back to it. */
static __always_inline int vip_write_out(struct __sk_buff *skb, struct packet *p,
					 struct vip_scratch *s)
{
	const struct peer *to = &s->choice.to;

	s->own.addr = p->src;
	if (same_addr(&to->addr, &p->dst)) { /* T:b -> V:p becomes V:v -> T:p */
		s->own.port = p->dport;
		return vip_write(skb, p, true, to) || vip_write(skb, p, false, &s->own);
	}
	if (vip_write(skb, p, false, to))
		return -1;
	p->translated = true;
	if (!same_addr(&to->addr, &s->own.addr))
		return 0;
	s->vip.port = p->sport; /* T:p -> V:v becomes V:p -> T:b */
	return vip_write(skb, p, true, &s->vip);
}

/* The key under which the answer of a backend to the packet of a task will be met. */
static __always_inline void vip_answer_key(const struct packet *p, const struct peer *backend,
					   struct flow_key *key)
{
	vip_flow(p, key);
	if (!same_addr(&backend->addr, &p->src)) /* else it answers the VIP */
		key->dst = p->src;
	key->src = backend->addr;
	key->sport = backend->port;
	key->dport = p->sport;
}

/*
 * Chooses a backend for a new flow. A task may use one port for two VIPs that share a backend; its
 * answers would be told apart no more, so another backend is tried, and in the end the older flow
 * loses.
 */
static __always_inline int vip_choose(const struct packet *p, const struct vip *vip,
				      struct vip_scratch *s)
{
	__u32 hash = 0;

	if (vip->policy == VIP_MAGLEV)
		hash = client_hash(&p->src, vip->affinity ? 0 : p->sport);
	for (int i = 0; i < VIP_CHOICES; i++) {
		struct translation *taken;

		if (choose_backend(vip, &p->src, &s->choice, false, hash + i * 0x9e3779b9) ||
		    is_mapped(&s->choice.to.addr) != is_ipv4(p))
			return -1;
		vip_answer_key(p, &s->choice.to, &s->answer);
		taken = bpf_map_lookup_elem(&translations, &s->answer);
		if (!taken || (taken->to.port == p->dport && same_addr(&taken->to.addr, &p->dst)))
			break;
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

/* Remembers a new flow in both directions. */
static __always_inline void vip_remember(const struct packet *p, struct vip_scratch *s)
{
	vip_flow(p, &s->key);
	vip_record(s, &s->answer, &s->vip, 0);
	vip_record(s, &s->key, &s->choice.to, s->choice.slot);
}

/*
 * Where there is no room the table forgets who was not met for long, so first the way back of a
 * flow that is not answered. Its answer would not be known when it comes: who asks keeps it.
 */
static __always_inline void vip_expect(const struct packet *p, struct vip_scratch *s)
{
	vip_answer_key(p, &s->choice.to, &s->answer);
	if (!bpf_map_lookup_elem(&translations, &s->answer))
		vip_record(s, &s->answer, &s->vip, 0);
}

static __always_inline bool vip_opens(const struct packet *p)
{
	return p->proto == PROTO_TCP && (p->tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * The backend that a flow has, as long as it can: an established connection to the end, datagrams
 * while it is behind the VIP, a new connection (whose ports were used before) while it takes some.
 */
static __always_inline int vip_keep(const struct packet *p, const struct vip *vip,
				    struct translation *known, struct socket_peer *choice)
{
	bool opens = vip_opens(p);

	choice->to = known->to;
	choice->slot = known->slot;
	if (p->proto == PROTO_TCP && !opens)
		return 0;
	if (keep_backend(vip, choice, opens))
		return -1;
	if (choice->slot != known->slot)
		known->slot = choice->slot;
	return 0;
}

/* What is known of the packet's flow, or of its datagram where it is a later fragment. */
static __always_inline struct translation *vip_known(struct __sk_buff *skb, const struct packet *p,
						     struct vip_scratch *s)
{
	vip_flow(p, &s->key);
	if (p->fragment == FRAGMENT_LATER && vip_fragment(skb, p, &s->key))
		return NULL;
	return bpf_map_lookup_elem(&translations, &s->key);
}

/* Leaves to later fragments what the first one was translated to. */
static __always_inline void vip_lead(struct __sk_buff *skb, const struct packet *p,
				     struct vip_scratch *s)
{
	if (p->fragment != FRAGMENT_FIRST || vip_fragment(skb, p, &s->key))
		return;
	vip_record(s, &s->key, &s->choice.to, 0);
}

/*
 * A task speaks to a backend itself, from a port that it used for a VIP before: what answers now
 * must not come from the VIP. The newer flow has the port. Global, for its keys.
 */
__noinline int vip_release(const struct packet *p)
{
	struct vip_scratch *s = vip_paper();
	struct peer backend = {};
	struct translation *old;

	if (!p || !s || p->fragment == FRAGMENT_LATER || (p->proto == PROTO_TCP && !vip_opens(p)))
		return 0;
	backend.addr = p->dst;
	backend.port = p->dport;
	vip_answer_key(p, &backend, &s->answer);
	old = bpf_map_lookup_elem(&translations, &s->answer);
	if (!old)
		return 0;
	vip_flow(p, &s->key);
	s->key.dst = old->to.addr;
	s->key.dport = old->to.port;
	bpf_map_delete_elem(&translations, &s->key);
	return bpf_map_delete_elem(&translations, &s->answer);
}

/*
 * Translates what a task sends: to a VIP, or (vip NULL) what translations knows. Global, for its
 * size.
 */
__noinline int vip_translate(struct __sk_buff *skb, struct packet *p, const struct vip *vip)
{
	struct vip_scratch *s = vip_paper();
	struct translation *known;

	if (!p || !s)
		return CONTINUE;
	s->vip.addr = p->dst;
	s->vip.port = p->dport;
	known = vip_known(skb, p, s);
	if (known && (p->fragment == FRAGMENT_LATER || same_addr(&known->to.addr, &p->dst))) {
		s->choice.to = known->to;
	} else if (!vip) {
		return CONTINUE;
	} else if (!known || vip_keep(p, vip, known, &s->choice)) {
		if (vip_choose(p, vip, s))
			return drop(p, REASON_NO_BACKEND);
		vip_remember(p, s);
		vip_mark_link(skb->ifindex, VIP_LINK_ASKS);
	} else {
		vip_expect(p, s);
	}
	vip_lead(skb, p, s);
	return vip_write_out(skb, p, s) ? drop(p, REASON_MALFORMED) : CONTINUE;
}

/* Makes the packet again what the task sent: it is to be told of that. */
__noinline int vip_undo(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();

	return p && s ? vip_write(skb, p, false, &s->vip) : -1;
}

/* Gives what a backend answers the VIP as its source, where translations knows it. */
__noinline int vip_restore(struct __sk_buff *skb, struct packet *p)
{
	struct vip_scratch *s = vip_paper();
	struct translation *known;

	if (!p || !s)
		return CONTINUE;
	known = vip_known(skb, p, s);
	if (!known)
		return CONTINUE;
	s->choice.to = known->to;
	vip_lead(skb, p, s);
	return vip_write(skb, p, true, &s->choice.to) ? drop(p, REASON_MALFORMED) : CONTINUE;
}

/* Step of a task's link: what it sends to a VIP goes to a backend. */
static __always_inline int vip_out(struct __sk_buff *skb, struct packet *p)
{
	struct vip_key key = {.vni = p->vni, .addr = p->dst, .port = p->dport, .proto = p->proto};
	const struct vip *vip = NULL;

	if (!vip_carried(p))
		return CONTINUE;
	if (p->fragment != FRAGMENT_LATER)
		vip = bpf_map_lookup_elem(&vips, &key);
	if (!vip && !vip_link(skb->ifindex, VIP_LINK_ASKS))
		return CONTINUE;
	return vip_translate(skb, p, vip);
}

/* Step of a task's link for what it sends to a task's own address. */
static __always_inline void vip_direct(struct __sk_buff *skb, const struct packet *p)
{
	if (vip_carried(p) && vip_link(skb->ifindex, VIP_LINK_ASKS))
		vip_release(p);
}

/* Step before delivery to the link ifindex: what a backend answers comes from the VIP. */
static __always_inline int vip_in(struct __sk_buff *skb, struct packet *p, __u32 ifindex)
{
	if (!vip_carried(p) || !vip_link(ifindex, VIP_LINK_ASKS))
		return CONTINUE;
	return vip_restore(skb, p);
}
