// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

/*
 * The host's own questions, met on the loopback device, where the address of the node's name
 * server lives. Those of tasks are met in workload.bpf.c.
 *
 *   from_host, ingress of lo
 *     parse -> not a question: next
 *     dns   -> answered: on into the stack, as if the server had sent it
 *              else: on to the server
 */

#include "lib/answer.h"
#include "lib/count.h"
#include "lib/packet.h"
#include "lib/parse.h"

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	struct packet p = {.len = skb->len};

	if (parse(skb, &p, 0) != CONTINUE || !dns_asked(&p))
		return TCX_NEXT;
	p.reason = dns_answer(skb, &p);
	count(skb, &p, PROGRAM_DNS);
	return p.reason < REASON_DROP ? TCX_NEXT : TCX_DROP;
}

char licence[] SEC("license") = "Dual BSD/GPL";
