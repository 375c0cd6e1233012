// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"weft/discovery/zone"
)

// Limits of a watch.
const (
	maxWatched = 100 // names
	// keepAlive is how often a line goes out when nothing changes, so that who is gone is noticed.
	keepAlive = 15 * time.Second
)

// watchedName is the data of an event about a name. Gone means that the name is missing; before the
// node knows all names, it is not sent.
type watchedName struct {
	Name    string          `json:"name"`
	Gone    bool            `json:"gone,omitempty"`
	Records []watchedRecord `json:"records"`
}

type watchedRecord struct {
	Type   string `json:"type"`
	TTL    uint32 `json:"ttl"`
	Data   string `json:"data"`
	From   string `json:"from"`
	Writer string `json:"writer"`
}

// watch sends server-sent events (WHATWG HTML, 9.2): first what is true, then each thing that changed,
// whole. A slow reader misses what was in between, never the last state.
//
//	event: name   data: {"name": "web.weft.mesos.", "records": [...]}
//	event: vips   data: as /v1/vips
//	event: nodes  data: as /v1/nodes
func (n *node) watch(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	names := query["name"]
	if len(names) > maxWatched || len(names) == 0 && !query.Has("vips") && !query.Has("nodes") {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("name (up to %d times), vips and nodes can be watched, for example /v1/watch?name=web.weft.mesos&vips", maxWatched))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	send := func(event string, document []byte) error {
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

// Follow calls send for each document of what is watched, first for what is true, then for each thing that changed,
// whole, and now and then with neither event nor document while nothing does. It ends with ctx, or when send fails.
func Follow(ctx context.Context, o NodeOptions, watched Watched, send func(event string, document []byte) error) error {
	return newNode(o).follow(ctx, watched, send)
}

func (n *node) follow(ctx context.Context, watched Watched, send func(event string, document []byte) error) error {
	sent := map[string][]byte{}
	tell := func(event, id string, document any) error {
		text, err := json.Marshal(document)
		if err != nil || bytes.Equal(sent[id], text) {
			return err
		}
		sent[id] = text
		return send(event, text)
	}
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		held := map[string]bool{}
		for _, name := range watched.Names {
			held[name] = n.Hold(ctx, fqdn(name)) // a watch is a question that goes on
		}
		namesChanged, vipsChanged, nodesChanged := n.Changed()
		if err := n.tellAll(watched, held, tell); err != nil {
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

// tell sends a document, unless it is what was sent last.
type tell func(event, id string, document any) error

func (n *node) tellAll(watched Watched, held map[string]bool, tell tell) error {
	err := n.tellNames(watched.Names, held, tell)
	if err == nil && watched.VIPs {
		err = tell("vips", "vips", n.VIPs())
	}
	if err == nil && watched.Nodes {
		err = tell("nodes", "nodes", n.Nodes())
	}
	return err
}

func (n *node) tellNames(names []string, held map[string]bool, tell tell) error {
	z := n.Zone()
	for _, text := range names {
		name := fqdn(text)
		doc := watchedName{Name: name, Records: []watchedRecord{}}
		for _, r := range z.Lookup("", name).Of(zone.Any) {
			doc.Records = append(doc.Records, watchedRecord{r.Type.String(), r.TTL, r.Data(), r.From, r.Writer})
		}
		if doc.Gone = len(doc.Records) == 0; doc.Gone && (!held[text] || !z.Complete()) {
			continue
		}
		if err := tell("name", "name "+name, doc); err != nil {
			return err
		}
	}
	return nil
}
