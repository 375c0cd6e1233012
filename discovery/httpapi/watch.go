// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"weft/discovery/zone/record"
)

// Limits of a watch.
const (
	maxWatched = 100 // names
	// MaxWatchers is how many may watch at a time, at each listener: each change is looked for once for each of them.
	MaxWatchers = 64
	// keepAlive is how often a line goes out when nothing changes, so that who is gone is noticed.
	keepAlive = 15 * time.Second
	// takeWithin is how long a reader may take for one event; then it is taken for gone.
	takeWithin = 30 * time.Second
)

// watch sends server-sent events (WHATWG HTML, 9.2): first what is true, then what changed, by rows. A slow reader
// misses what was in between, never the last state. What is long comes in pieces of about 256 KiB: all but the last
// piece say that there is more, and what a row has too much of continues in an entry of the same key.
//
//	event: name   data: {"name": "web.weft.mesos.", "records": [...], "continues": true, "more": true}
//	event: vips   data: {"changed": [as in /v1/vips], "gone": [{"vip", "protocol", "network"}], "anew": true, "more": true}
//	event: nodes  data: {"changed": [as in /v1/nodes], "gone": [ids], "anew": true, "more": true}
//
// The first event of each kind says anew: a reader that connects again, as browsers do by themselves, drops what it has.
func (n *node) watch(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	names := query["name"]
	if len(names) > maxWatched || len(names) == 0 && !query.Has("vips") && !query.Has("nodes") {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("name (up to %d times), vips and nodes can be watched, for example /v1/watch?name=web.weft.mesos&vips", maxWatched))
		return
	}
	if !n.watchers.TryAcquire(1) {
		refuse(w, http.StatusServiceUnavailable, fmt.Sprintf("%d watch this node now, which is as many as may at a time", MaxWatchers))
		return
	}
	defer n.watchers.Release(1)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	send := func(event string, document []byte) error {
		if err := out.SetWriteDeadline(time.Now().Add(takeWithin)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if event == "" {
			_, err := w.Write([]byte(":\n\n"))
			return errors.Join(err, out.Flush())
		}
		_, err := fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, document)
		return errors.Join(err, out.Flush())
	}
	// It ends when the reader goes away: nothing to report.
	_ = n.follow(r.Context(), Watched{names, query.Has("vips"), query.Has("nodes")}, send)
}

// Watched is what somebody follows.
type Watched struct {
	Names       []string
	VIPs, Nodes bool
}

// Follow calls send for what is true of what is watched, then for what changed, in the pieces that watch.go tells of, none
// of which exceeds a mebibyte, and now and then with neither event nor document while nothing does. It ends with ctx,
// or when send fails.
func Follow(ctx context.Context, o NodeOptions, watched Watched, send func(event string, document []byte) error) error {
	return newNode(o).follow(ctx, watched, send)
}

func (n *node) follow(ctx context.Context, watched Watched, send func(event string, document []byte) error) error {
	vips, nodes, names := newTold[vipKey]("vips"), newTold[string]("nodes"), newTold[string]("name")
	names.rows = map[string]uint64{}
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		held := map[string]bool{}
		for _, name := range watched.Names {
			held[name] = n.Hold(ctx, fqdn(name)) // a watch is a question that goes on
		}
		namesChanged, vipsChanged, nodesChanged := n.Changed()
		err := n.tellNames(watched.Names, held, names, send)
		if err == nil && watched.VIPs {
			err = vips.tell(vipRows(n.VIPs()), send)
		}
		if err == nil && watched.Nodes {
			err = nodes.tell(nodeRows(n.Nodes()), send)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-namesChanged:
		case <-vipsChanged:
		case <-nodesChanged:
		case <-tick.C:
			if err := send("", nil); err != nil {
				return err
			}
		}
	}
}

// tellNames sends each name that is not what it was when it was last told of.
func (n *node) tellNames(names []string, held map[string]bool, told *told[string], send func(string, []byte) error) error {
	z := n.Zone()
	for _, text := range names {
		name := fqdn(text)
		records := []watchedRecord{}
		for _, r := range z.Lookup("", name).Of(record.Any) {
			records = append(records, watchedRecord{r.Type.String(), r.TTL, r.Data(), r.From, r.Writer})
		}
		if len(records) == 0 && (!held[text] || !z.Complete()) {
			continue
		}
		parts, err := encode(nameParts(name, records))
		if err != nil {
			return err
		}
		if told.renew(name, told.rows, parts) {
			continue
		}
		for _, part := range parts {
			if err := send(told.event, part); err != nil {
				return err
			}
		}
	}
	return nil
}
