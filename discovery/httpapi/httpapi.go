// SPDX-License-Identifier: Apache-2.0

// Package httpapi answers HTTP requests about names as Mesos-DNS does on its port 8123. It reads a
// snapshot and knows nothing of where that is from; sockets are the caller's.
//
//	GET /v1/version            what answers
//	GET /v1/config             with which configuration
//	GET /v1/hosts/NAME         addresses of a name
//	GET /v1/services/_X._tcp.F hosts and ports of a service
//	GET /v1/enumerate          records by framework and task
//	GET /v1/axfr               records by type and name
package httpapi

import (
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// Snapshot is what answers are made of.
type Snapshot struct {
	Zone    *zone.Zone
	Listing []zone.Listed
}

// Options say what to answer from.
type Options struct {
	// Snapshot returns what is true now. Required.
	Snapshot func() Snapshot
	// Service, URL and Version are what /v1/version says.
	Service, URL, Version string
	// Config returns what /v1/config says; nil: there is no such page.
	Config func() any
	// Enumeration turns on /v1/enumerate and /v1/axfr.
	Enumeration bool
	// Refresh is how often the zone may change, for those who copy it.
	Refresh time.Duration
	// Log takes what the operator should know; nil: nobody.
	Log *slog.Logger
}

// api answers requests.
type api struct{ Options }

// New returns the handler.
func New(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &api{o}
	pages := map[string]func(http.ResponseWriter, *http.Request){
		"/v1/version":            a.version,
		"/v1/hosts/{name}":       a.hosts,
		"/v1/hosts/{name}/ports": a.ports,
		"/v1/services/{name}":    a.services,
	}
	if o.Config != nil {
		pages["/v1/config"] = a.config
	}
	if o.Enumeration {
		pages["/v1/enumerate"] = a.enumerate
		pages["/v1/axfr"] = a.transfer
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "Page Not Found") })
	for path, page := range pages {
		mux.HandleFunc(path, only(page))
		mux.HandleFunc(path+"/{$}", only(page))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.RawPath = "" // a slash is one even if it is written as %2F
		mux.ServeHTTP(w, r)
	})
}

// get lets those through who read.
func get(page http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
			return
		}
		page(w, r)
	}
}

// only lets those through who ask for what there is: JSON.
func only(page http.HandlerFunc) http.HandlerFunc {
	return get(func(w http.ResponseWriter, r *http.Request) {
		if !accepts(r.Header.Values("Accept")) {
			refuse(w, http.StatusNotAcceptable, "Not Acceptable")
			return
		}
		page(w, r)
	})
}

// accepts tells whether JSON is among the media types that a client takes (RFC 9110, 12.5.1).
func accepts(lines []string) bool {
	list := strings.Join(lines, ",")
	if strings.TrimSpace(list) == "" {
		return true
	}
	for item := range strings.SplitSeq(list, ",") {
		media, _, _ := strings.Cut(item, ";")
		switch strings.ToLower(strings.TrimSpace(media)) {
		case "*/*", "application/*", "application/json":
			return true
		}
	}
	return false
}

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(strconv.Itoa(status) + ": " + text)) // who went away reads nothing
}

// write sends a document, indented as Mesos-DNS does.
func (a *api) write(w http.ResponseWriter, document any) {
	text, err := json.MarshalIndent(document, " ", " ")
	if err != nil {
		a.Log.Error("answer not written", "error", err)
		refuse(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text) // who went away reads nothing
}

func (a *api) version(w http.ResponseWriter, _ *http.Request) {
	a.write(w, versionRecord{Service: a.Service, URL: a.URL, Version: a.Version})
}

func (a *api) config(w http.ResponseWriter, _ *http.Request) { a.write(w, a.Config()) }

func (a *api) ports(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusNotImplemented)
	_, _ = w.Write([]byte("To be implemented...")) // Mesos-DNS never was either
}

func (a *api) enumerate(w http.ResponseWriter, _ *http.Request) {
	s := a.Snapshot()
	a.write(w, NewEnumeration(s.Zone, s.Listing))
}

func (a *api) transfer(w http.ResponseWriter, _ *http.Request) {
	a.write(w, NewTransfer(a.Snapshot().Zone, a.Refresh))
}

// fqdn is the name that a client means: wildcards cut out, as in questions to Mesos-DNS.
func fqdn(name string) string {
	name = strings.ToLower(strings.ReplaceAll(name, ".*", ""))
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	return name
}

// hosts answers with all addresses, in an order by lot, and with one empty record if there are none.
func (a *api) hosts(w http.ResponseWriter, r *http.Request) {
	name := fqdn(r.PathValue("name"))
	look := a.Snapshot().Zone.Lookup("", name)
	var records []hostRecord
	for _, t := range [...]record.Type{record.A, record.AAAA} {
		for _, r := range look.Of(t) {
			records = append(records, hostRecord{name, r.Value()})
		}
	}
	if len(records) == 0 {
		records = []hostRecord{{}}
	}
	shuffle(records)
	a.write(w, records)
}

// services answers with one address of each family for every target, chosen by lot, in an order by
// lot, and with one empty record if there are none.
func (a *api) services(w http.ResponseWriter, r *http.Request) {
	asked := r.PathValue("name")
	z := a.Snapshot().Zone
	var records []serviceRecord
	for _, srv := range z.Lookup("", fqdn(asked)).Of(record.SRV) {
		value := srv.Value() // of which Mesos-DNS shows the port even if it is none
		i := strings.LastIndexByte(value, ':')
		target, port := value[:i], value[i+1:]
		if strings.ContainsAny(target, ":[]") {
			continue
		}
		look := z.Lookup("", target)
		for _, t := range [...]record.Type{record.A, record.AAAA} {
			if addrs := look.Of(t); len(addrs) > 0 {
				addr := addrs[rand.IntN(len(addrs))]
				records = append(records, serviceRecord{asked, target, addr.Value(), port})
			}
		}
	}
	if len(records) == 0 {
		records = []serviceRecord{{}}
	}
	shuffle(records)
	a.write(w, records)
}

func shuffle[T any](list []T) {
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}
