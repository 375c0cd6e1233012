// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * The host's own questions, met on the loopback device, where the address of the node's name
 * server lives. Those of tasks are met in workload.bpf.c.
 *
 *   from_host, ingress of lo
 *     parse -> not a question: next
 *     dns   -> answered: on into the stack, as if the server had sent it
 *              unknown: on to the server
 */

#include "headers/helpers.h"
#include "headers/kernel.h"
#include "headers/packet.h"
#include "lib/config.h"
#include "lib/dns.h"
#include "lib/maps.h"
#include "lib/packet.h"

/* What dns_answer needs to know of a packet; what is not plain is no question. */
static __always_inline int parse_host(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethernet *eth = data;
	struct ipv4 *ip4 = data + sizeof(*eth);
	struct ipv6 *ip6 = data + sizeof(*eth);
	struct udp *udp;

	if ((void *)(ip4 + 1) + sizeof(*udp) > end)
		return -1;
	p->l3 = sizeof(*eth);
	p->ethertype = eth->type;
	if (eth->type == bpf_htons(ETHERTYPE_IPV4)) {
		if (ip4->version_ihl != 0x45 || ip4->fragment & bpf_htons(IPV4_MF | IPV4_OFFSET))
			return -1;
		p->dst.bytes[10] = p->dst.bytes[11] = 0xff;
		memcpy(p->dst.bytes + 12, &ip4->dst, 4);
		p->proto = ip4->proto;
		udp = (void *)(ip4 + 1);
	} else if (eth->type == bpf_htons(ETHERTYPE_IPV6)) {
		if ((void *)(ip6 + 1) + sizeof(*udp) > end)
			return -1;
		memcpy(&p->dst, ip6->dst, 16);
		p->proto = ip6->next;
		udp = (void *)(ip6 + 1);
	} else {
		return -1;
	}
	p->l4 = (void *)udp - data;
	p->dport = udp->dport;
	return 0;
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct packet p = {};

	if (parse_host(skb, &p) || !dns_asked(&p))
		return TCX_NEXT;
	switch (dns_answer(skb, &p)) {
	case 1:
		return TCX_NEXT;
	case 0:
		return TCX_NEXT;
	}
	return TCX_DROP;
}

char licence[] SEC("license") = "Dual BSD/GPL";
