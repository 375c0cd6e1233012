// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)

#include "headers/kernel.h"
#include "headers/helpers.h"
#include "headers/packet.h"
#include "lib/config.h"
#include "lib/maps.h"
#include "lib/packet.h"

SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	return skb->ifindex == underlay_ifindex ? TCX_NEXT : TCX_NEXT;
}

SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	return skb->ifindex == tunnel_ifindex ? TCX_NEXT : TCX_NEXT;
}

char licence[] SEC("license") = "Dual BSD/GPL";
