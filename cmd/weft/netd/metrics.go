// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Describe implements prometheus.Collector: what is collected is not known beforehand.
func (d *daemon) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector: it asks every room for its Stats.
func (d *daemon) Collect(out chan<- prometheus.Metric) {
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	send := func(name, help string, kind prometheus.ValueType, value float64, labels ...string) {
		var names, values []string
		for i := 0; i+1 < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		m, err := prometheus.NewConstMetric(prometheus.NewDesc("weft_"+name, help, names, nil), kind, value, values...)
		if err == nil {
			out <- m
		}
	}
	if counters, err := d.plane.Counters(); err == nil {
		for reason, c := range counters {
			send("packets_total", "packets that left the programs, by reason", counter, float64(c.Packets), "reason", reason.String())
			send("packet_bytes_total", "their bytes", counter, float64(c.Bytes), "reason", reason.String())
		}
	}
	rows := d.store.Stats()
	send("rows", "live rows of all writers", gauge, float64(rows.Rows))
	send("row_writers", "writers that have rows", gauge, float64(rows.Writers))
	send("rows_refused_total", "rows of removed writers", counter, float64(rows.Refused))
	members := d.gossip.Stats()
	send("members", "members by state", gauge, float64(members.Alive), "state", "alive")
	send("members", "members by state", gauge, float64(members.Dead), "state", "dead")
	streams := d.syncer.Stats()
	send("sync_streams", "streams of rows that are open", gauge, float64(streams.Open))
	send("sync_rows_total", "rows exchanged", counter, float64(streams.Sent), "direction", "sent")
	send("sync_rows_total", "rows exchanged", counter, float64(streams.Received), "direction", "received")
	names := d.names.Stats()
	send("dns_questions_total", "questions that reached the server", counter, float64(names.Own), "zone", "own")
	send("dns_questions_total", "questions that reached the server", counter, float64(names.Foreign), "zone", "foreign")
	send("dns_resident", "answers that the kernel gives", gauge, float64(names.Resident))
	send("dns_failed_total", "foreign questions that no resolver answered", counter, float64(names.Failed))
	if s := d.lb.Snapshot(); s != nil {
		send("vips", "VIPs declared anywhere", gauge, float64(s.Stats.VIPs))
		send("backends", "backends by state", gauge, float64(s.Stats.In), "state", "in")
		send("backends", "backends by state", gauge, float64(s.Stats.Backends-s.Stats.In), "state", "out")
	}
	o := d.overlay.Stats()
	send("endpoints", "tasks' endpoints on this node", gauge, float64(o.Endpoints))
}

// serveMetrics answers Prometheus until ctx ends.
func (d *daemon) serveMetrics(ctx context.Context) error {
	if d.o.Metrics == "" {
		return nil
	}
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{d, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := registry.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", d.o.Metrics)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // nothing is lost: readers come again
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
