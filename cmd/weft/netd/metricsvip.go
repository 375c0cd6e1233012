// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/cmd/weft/process"
	"weft/lb"
)

// reportVIPs tells what this node's connections came to, of the backends that they went to: others
// would be a thousand lines that say nothing.
func (d *daemon) reportVIPs(send process.Send) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	vips, err := d.lb.VIPs(ctx, "")
	if err != nil {
		return // the daemon has just started, or ends
	}
	for _, v := range vips {
		for _, b := range v.Backends {
			if b.Traffic.Chosen > 0 {
				reportBackend(send, v, b)
			}
		}
	}
}

func reportBackend(send process.Send, v lb.VIPStatus, b lb.BackendStatus) {
	t := b.Traffic
	name := v.Name
	if name == "" {
		name = v.Addr.String()
	}
	labels := []string{"network", v.Network, "vip", fmt.Sprintf("%s:%d", name, v.Port), "protocol", v.Protocol, "task", b.Task, "node", string(b.Node)}
	with := func(more ...string) []string { return append(slices.Clip(labels), more...) }
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	send("vip_connections_total", "connections and flows of datagrams that this node gave a backend", counter, float64(t.Chosen), labels...)
	const failures = "connections of this node to a backend that failed, by how"
	send("vip_failures_total", failures, counter, float64(t.Refused), with("how", "refused")...)
	send("vip_failures_total", failures, counter, float64(t.Timeouts), with("how", "timeout")...)
	send("vip_failures_total", failures, counter, float64(t.Resets), with("how", "reset")...)
	send("vip_ejections_total", "times that this node left a backend out, after failures", counter, float64(t.Ejections), labels...)
	send("vip_in_flight", "connections of this node to a backend", gauge, float64(t.InFlight), labels...)
	send("vip_latency_seconds", "latency of a backend, as this node's choices know it", gauge, t.Latency.Seconds(), labels...)
	sum := uint64(0)
	for i, n := range t.Buckets {
		sum += n
		le := math.Inf(1)
		if i < len(t.Buckets)-1 {
			le = float64(uint64(1)<<i) / 1e6
		}
		send("vip_duration_seconds_bucket", "connections shorter than a second, by their length", counter, float64(sum),
			with("le", strconv.FormatFloat(le, 'g', -1, 64))...)
	}
	send("vip_duration_seconds_sum", "length of connections shorter than a second", counter, t.LatencySum.Seconds(), labels...)
	send("vip_duration_seconds_count", "connections shorter than a second", counter, float64(sum), labels...)
}
