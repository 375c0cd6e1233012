// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
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
	sent := map[string][]byte{}
	tell := func(event, id string, document any) error {
		text, err := json.Marshal(document)
		if err != nil || bytes.Equal(sent[id], text) {
			return err
		}
		sent[id] = text
		_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event, text)
		return err
	}
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		for _, name := range names {
			n.Hold(r.Context(), fqdn(name)) // a watch is a question that goes on
		}
		namesChanged, vipsChanged, nodesChanged := n.Changed()
		if n.tellAll(names, query.Has("vips"), query.Has("nodes"), tell) != nil || out.Flush() != nil {
			return // the reader went away
		}
		select {
		case <-r.Context().Done():
			return
		case <-namesChanged:
		case <-vipsChanged:
		case <-nodesChanged:
		case <-tick.C:
			if _, err := w.Write([]byte(":\n\n")); err != nil {
				return
			}
		}
	}
}

// tell sends a document, unless it is what was sent last.
type tell func(event, id string, document any) error

func (n *node) tellAll(names []string, vips, nodes bool, tell tell) error {
	err := n.tellNames(names, tell)
	if err == nil && vips {
		err = tell("vips", "vips", n.VIPs())
	}
	if err == nil && nodes {
		err = tell("nodes", "nodes", n.Nodes())
	}
	return err
}

func (n *node) tellNames(names []string, tell tell) error {
	z := n.Zone()
	for _, text := range names {
		name := fqdn(text)
		doc := watchedName{Name: name, Records: []watchedRecord{}}
		for _, r := range z.Lookup("", name).Of(zone.Any) {
			doc.Records = append(doc.Records, watchedRecord{r.Type.String(), r.TTL, r.Data(), r.From, r.Writer})
		}
		if doc.Gone = len(doc.Records) == 0; doc.Gone && !z.Complete() {
			continue
		}
		if err := tell("name", "name "+name, doc); err != nil {
			return err
		}
	}
	return nil
}
