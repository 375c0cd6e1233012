// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// NodeOptions say what a node answers.
type NodeOptions struct {
	Zone func() *zone.Zone // as it is now; required
	// Hold waits until a name is in the zone, if there is one, or until all are when it is empty; nil: they are.
	// False: what is there may be a part.
	Hold  func(ctx context.Context, name string) bool
	VIPs  func() []VIP
	Nodes func() []Node
	// Changed returns what is closed at the next change of each of the three. Take it before asking them.
	Changed func() (names, vips, nodes <-chan struct{})
	// Metrics answers in Prometheus's text format; nil: nothing.
	Metrics http.Handler
	Version string
	Log     *slog.Logger // nil: nobody
}

type (
	// VIP is a declared VIP with all its backends, whatever their state.
	VIP struct {
		VIP      string    `json:"vip"` // name.fw.l4lb.thisdcos.directory:80, or address:port
		Protocol string    `json:"protocol"`
		Backends []Backend `json:"backend"`
		// Ours besides.
		Network string       `json:"network,omitempty"`
		Addrs   []netip.Addr `json:"addresses,omitempty"`
	}
	// Backend is a task behind a VIP.
	Backend struct {
		IP     netip.Addr `json:"ip"`
		Port   uint16     `json:"port"`
		Task   string     `json:"task,omitempty"`
		Node   string     `json:"node,omitempty"`
		Weight uint16     `json:"weight"`
		In     bool       `json:"in"`
		Reason string     `json:"reason,omitempty"`
		Health string     `json:"health,omitempty"` // healthy, unhealthy, unknown; empty: nobody checks
	}
	// Node is a node of the cluster.
	Node struct {
		Private  netip.Addr   `json:"private_ip"`
		Public   []netip.Addr `json:"public_ips"`
		Hostname string       `json:"hostname"`
		Updated  Moment       `json:"updated"`
		ID       string       `json:"id"`
		Alive    bool         `json:"alive"`
	}
)

// Moment is a time as dcos-net writes it: UTC, with three digits of a second.
type Moment struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (m Moment) MarshalJSON() ([]byte, error) {
	return []byte(m.UTC().Format(`"2006-01-02T15:04:05.000Z"`)), nil
}

// node answers requests of one node.
type node struct {
	NodeOptions
	watchers *semaphore.Weighted
}

// NewNode returns what a node serves: the HTTP API of dcos-net, and two pages of ours.
//
//	GET /v1/version, /v1/hosts/NAME, /v1/services/NAME, /v1/records   names
//	GET /v1/vips                                                       VIPs and their backends, with ETag
//	GET /v1/nodes                                                      nodes
//	GET /v1/metrics, /v1/metrics/REGISTRY                              Prometheus's text format
//	GET /v1/config, /v1/enumerate                                      501, as dcos-net answers
//	GET /v1/watch?name=N&vips&nodes                                    events, see watch.go
//	GET /v1/targets?port=P&network=N&framework=F                       tasks for Prometheus (HTTP SD)
func NewNode(o NodeOptions) http.Handler {
	n := newNode(o)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "Page Not Found") })
	for path, page := range map[string]http.HandlerFunc{
		"/v1/version": only(n.nodeVersion), "/v1/hosts/{name}": only(n.nodeHosts), "/v1/services/{name}": only(n.nodeServices),
		"/v1/records": only(n.records), "/v1/vips": only(n.vips), "/v1/nodes": only(n.nodes), "/v1/targets": only(n.targets),
		"/v1/config": only(n.missing), "/v1/enumerate": only(n.missing),
		"/v1/watch": get(n.watch), "/v1/metrics": get(n.metrics), "/v1/metrics/{registry}": get(n.metrics),
	} {
		mux.HandleFunc(path, page)
		mux.HandleFunc(path+"/{$}", page)
	}
	return mux
}

func newNode(o NodeOptions) *node {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Hold == nil {
		o.Hold = func(context.Context, string) bool { return true }
	}
	return &node{o, semaphore.NewWeighted(MaxWatchers)}
}

func (n *node) missing(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusNotImplemented)
}

func (n *node) nodeVersion(w http.ResponseWriter, r *http.Request) {
	n.send(w, r, struct{ Service, Version string }{"dcos-dns", n.Version})
}

// send writes a document with its ETag, or says that the client has it.
func (n *node) send(w http.ResponseWriter, r *http.Request, document any) {
	text, err := json.Marshal(document)
	if err != nil {
		n.Log.Error("answer not written", "error", err)
		refuse(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	sum := sha256.Sum256(text)
	tag := strconv.Quote(hex.EncodeToString(sum[:8]))
	w.Header().Set("ETag", tag)
	w.Header().Set("Content-Type", "application/json")
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(text) // who went away reads nothing
}

// bare is a name as dcos-net writes it, without the final dot that Mesos-DNS has.
func bare(name string) string { return strings.TrimSuffix(name, ".") }

// nodeHosts answers with all addresses of a name; dcos-net says [] when there are none.
func (n *node) nodeHosts(w http.ResponseWriter, r *http.Request) {
	name := fqdn(r.PathValue("name"))
	present, _ := n.Zone().Present(name)
	n.Hold(r.Context(), present)
	look := n.Zone().Lookup("", present)
	records := []hostRecord{}
	for _, t := range [...]record.Type{record.A, record.AAAA} {
		for _, r := range look.Of(t) {
			records = append(records, hostRecord{bare(name), r.Value()})
		}
	}
	n.send(w, r, records)
}

// nodeService is dcos-net's: the port is a number.
type nodeService struct {
	Service string `json:"service"`
	Host    string `json:"host"`
	Port    uint16 `json:"port"`
	IP      string `json:"ip,omitempty"`
}

// nodeServices answers with one address for each service, none where its host has none.
func (n *node) nodeServices(w http.ResponseWriter, r *http.Request) {
	name := fqdn(r.PathValue("name"))
	present, _ := n.Zone().Present(name)
	n.Hold(r.Context(), present)
	z := n.Zone()
	records := []nodeService{}
	for _, srv := range z.Lookup("", present).Of(record.SRV) {
		one := nodeService{Service: bare(name), Host: bare(srv.Target), Port: srv.Port}
		look := z.Lookup("", srv.Target)
		if addrs := slices.Concat(look.Of(record.A), look.Of(record.AAAA)); len(addrs) > 0 {
			one.IP = addrs[0].Value()
		}
		records = append(records, one)
	}
	n.send(w, r, records)
}

type nodeRecord struct {
	Name string `json:"name"`
	Host string `json:"host"`
	Type string `json:"rtype"`
}

// records lists every record that an answer can hold, each value once.
func (n *node) records(w http.ResponseWriter, r *http.Request) {
	n.Hold(r.Context(), "")
	list := []nodeRecord{}
	for rec := range n.Zone().All {
		value := bare(rec.Value())
		if rec.Type == record.SRV {
			value = bare(rec.Target) + ":" + strconv.Itoa(int(rec.Port))
		}
		one := nodeRecord{bare(rec.Name), value, rec.Type.String()}
		if rec.Answerable() && (len(list) == 0 || list[len(list)-1] != one) {
			list = append(list, one)
		}
	}
	n.send(w, r, list)
}

func (n *node) vips(w http.ResponseWriter, r *http.Request)  { n.send(w, r, n.VIPs()) }
func (n *node) nodes(w http.ResponseWriter, r *http.Request) { n.send(w, r, n.Nodes()) }

// metrics has the registries of dcos-net. All that Weft counts is in each; what only dcos-net had is
// there and empty, since collectors ask for it.
func (n *node) metrics(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("registry") {
	case "", "default", "dns", "l4lb", "overlay":
		if n.Metrics != nil {
			n.Metrics.ServeHTTP(w, r)
			return
		}
	case "lashup", "mesos_listener":
	default:
		refuse(w, http.StatusNotFound, "Page Not Found")
		return
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
}

// target is a group of targets in Prometheus's HTTP SD.
type target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// targets lists the ports of tasks, those that the query asks for.
func (n *node) targets(w http.ResponseWriter, r *http.Request) {
	wanted := func(key, value string) bool { return !r.URL.Query().Has(key) || r.URL.Query().Get(key) == value }
	n.Hold(r.Context(), "")
	list := []target{}
	for s := range n.Zone().Facts {
		t, ok := s.Fact.(zone.Task)
		if !ok || !wanted("network", t.Network) || !wanted("framework", t.Framework) {
			continue
		}
		for _, p := range t.Ports {
			if !wanted("port", p.Name) || p.Protocol == "udp" {
				continue
			}
			one := target{Labels: map[string]string{
				"__meta_weft_task": t.Task, "__meta_weft_name": t.Label, "__meta_weft_framework": t.Framework,
				"__meta_weft_network": t.Network, "__meta_weft_node": string(t.Node), "__meta_weft_port": p.Name,
			}}
			for _, a := range t.Addrs {
				one.Targets = append(one.Targets, netip.AddrPortFrom(a, p.Port).String())
			}
			if len(one.Targets) > 0 {
				list = append(list, one)
			}
		}
	}
	slices.SortFunc(list, func(a, b target) int { return cmp.Compare(a.Targets[0], b.Targets[0]) })
	n.send(w, r, list)
}
