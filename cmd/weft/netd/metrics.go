// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weft/cmd/weft/process"
)

func (d *daemon) serveMetrics(ctx context.Context) error {
	return process.ServeMetrics(ctx, d.o.Metrics, d.report)
}

// report asks every room for its Stats.
func (d *daemon) report(send process.Send) {
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	if counters, err := d.plane.Counters(); err == nil {
		for reason, c := range counters {
			send("packets_total", "packets that left the programs, by reason", counter, float64(c.Packets), "reason", reason.String())
			send("packet_bytes_total", "their bytes", counter, float64(c.Bytes), "reason", reason.String())
		}
	}
	send("pins_lost_total", "pins that somebody else removed while the daemon ran", counter, float64(d.pinsLost.Load()))
	send("kernel_half_lost_total", "starts that found the kernel half removed: tasks were cut off", counter, float64(d.halfLost.Load()))
	rows := d.store.Stats()
	send("rows", "live rows of all writers", gauge, float64(rows.Rows))
	send("row_streams", "writers that have rows, and topics that they have rows on", gauge, float64(rows.Streams))
	send("rows_refused_total", "rows of removed writers", counter, float64(rows.Refused))
	members := d.gossip.Stats()
	send("members", "members by state", gauge, float64(members.Alive), "state", "alive")
	send("members", "members by state", gauge, float64(members.Dead), "state", "dead")
	send("members_silent", "members that say nothing while their kernels answer", gauge, float64(members.Silent))
	streams := d.syncer.Stats()
	send("sync_streams", "streams of rows that are open", gauge, float64(streams.Open))
	send("sync_rows_total", "rows exchanged", counter, float64(streams.Sent), "direction", "sent")
	send("sync_rows_total", "rows exchanged", counter, float64(streams.Received), "direction", "received")
	held := d.interest.Stats()
	send("interest_topics", "topics of names that are taken", gauge, float64(held.Topics))
	d.reportNames(send)
	if s := d.lb.Snapshot(); s != nil {
		send("vips", "VIPs declared anywhere", gauge, float64(s.Stats.VIPs))
		send("backends", "backends by state", gauge, float64(s.Stats.In), "state", "in")
		send("backends", "backends by state", gauge, float64(s.Stats.Backends-s.Stats.In), "state", "out")
	}
	d.reportTables(send)
	d.reportVIPs(send)
	d.reportEdge(send)
	d.reportNetworks(send)
}

// reportTables tells how the kernel's tables stand to what they should be.
func (d *daemon) reportTables(send process.Send) {
	const failed, mended = "passes over the kernel's tables that failed, and are tried again", "audits that found the kernel's tables changed by somebody else"
	o := d.overlay.Stats()
	send("table_failures_total", failed, prometheus.CounterValue, float64(o.SyncErrors), "tables", "overlay")
	send("table_mends_total", mended, prometheus.CounterValue, float64(o.Mended), "tables", "overlay")
	if s := d.lb.Snapshot(); s != nil {
		send("table_failures_total", failed, prometheus.CounterValue, float64(s.Stats.Failures), "tables", "vips")
		send("table_mends_total", mended, prometheus.CounterValue, float64(s.Stats.Mended), "tables", "vips")
	}
}

func (d *daemon) reportEdge(send process.Send) {
	gauge := prometheus.GaugeValue
	e := d.edge.Stats()
	send("publications", "VIPs published for clients outside", gauge, float64(e.Publications))
	send("edge_served", "ports of this node's tasks behind published VIPs", gauge, float64(e.Served))
	send("edge_failures_total", "passes over the edge's tables that failed", prometheus.CounterValue, float64(e.Failures))
	if len(d.o.Edge) == 0 {
		return
	}
	send("edge_backends", "backends that this node of the edge sends to", gauge, float64(e.Backends))
	if d.links != nil {
		send("edge_led", "published addresses that this node answers neighbours for", gauge, float64(len(d.links.Led())))
	}
}

func (d *daemon) reportNames(send process.Send) {
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	names := d.names.Stats()
	send("dns_questions_total", "questions that reached the server", counter, float64(names.Own), "zone", "own")
	send("dns_questions_total", "questions that reached the server", counter, float64(names.Foreign), "zone", "foreign")
	send("dns_resident", "answers that the kernel gives", gauge, float64(names.Resident))
	send("dns_remembered_total", "foreign questions answered without a resolver", counter, float64(names.Remembered))
	send("dns_stale_total", "foreign questions given an old answer because no resolver answered", counter, float64(names.Stale))
	send("dns_limited_total", "questions refused to tasks that ask too much", counter, float64(names.Limited))
	send("dns_missing_total", "questions for names that are not there", counter, float64(names.Missing))
	send("dns_unready_total", "questions not answered because not all names are known yet", counter, float64(names.Unready))
	send("dns_truncated_total", "answers that were too long for their asker", counter, float64(names.Truncated))
	send("dns_failed_total", "foreign questions that no resolver answered", counter, float64(names.Failed))
}

func (d *daemon) reportNetworks(send process.Send) {
	gauge := prometheus.GaugeValue
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // it waits while the daemon starts
	defer cancel()
	networks, _ := d.overlay.Networks(ctx)
	for _, n := range networks {
		send("addresses", "addresses of a network on this node: of tasks, and left in its blocks", gauge, float64(n.Used), "network", n.Name, "state", "used")
		send("addresses", "addresses of a network on this node: of tasks, and left in its blocks", gauge, float64(n.Free), "network", n.Name, "state", "free")
		send("address_blocks", "blocks of a network on this node", gauge, float64(len(n.Blocks)), "network", n.Name)
	}
	o := d.overlay.Stats()
	send("endpoints", "tasks' endpoints on this node", gauge, float64(o.Endpoints))
	send("small_paths", "nodes whose path carries smaller packets than the underlay", gauge, float64(o.SmallPaths))
	send("silent_paths", "nodes that live and answer no probe of the path to them: tunnel frames may not arrive", gauge, float64(o.SilentPath))
	send("second_port_nodes", "nodes that the first port of tunnels does not reach", gauge, float64(o.SecondPort))
}
