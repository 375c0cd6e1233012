// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
)

// Options configure a Ledger. Either Dir or Endpoints is needed.
type Options struct {
	// ID names this master among the masters, by default "master".
	ID string
	// Dir holds the embedded server's files. One process at a time.
	Dir string
	// Initial names all masters with the HOST:PORT where each listens to the others, this one
	// among them: 3 or 5. Empty: this master is alone and listens to nobody. It counts at the first
	// start only, later the members are known from Dir.
	Initial map[string]string
	// Listen is the address that the others reach this master at, by default as in Initial.
	Listen string
	// Endpoints are HOST:PORT or URLs of an existing etcd cluster; then no server is started.
	Endpoints []string
	// TLS is used towards Endpoints, nil: none.
	TLS *tls.Config
	// Prefix is put before every key, by default "/weft/v1/".
	Prefix string
	// Heartbeat and Election are the embedded server's times, by default 100 ms and 1 s.
	Heartbeat, Election time.Duration
	// Lease is how long a silent leader stays one, in whole seconds, by default 3 s. It can't be
	// shorter than about 1.5 elections.
	Lease time.Duration
	// Log takes what the store says, by default nothing does.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.ID == "" {
		o.ID = "master"
	}
	if o.Prefix == "" {
		o.Prefix = "/weft/v1/"
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 100 * time.Millisecond
	}
	if o.Election == 0 {
		o.Election = time.Second
	}
	if o.Lease == 0 {
		o.Lease = 3 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Listen == "" {
		o.Listen = o.Initial[o.ID]
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if strings.ContainsAny(o.ID, "=,/ ") {
		refuse("master id %q: '=', ',', '/' and blanks are not allowed", o.ID)
	}
	if !strings.HasSuffix(o.Prefix, "/") {
		refuse("prefix %q: must end in /", o.Prefix)
	}
	if o.Lease < time.Second || o.Lease%time.Second != 0 {
		refuse("lease %s: whole seconds are allowed, from 1s up", o.Lease)
	}
	switch {
	case len(o.Endpoints) == 0 && o.Dir == "":
		refuse("a folder for the embedded store, or the endpoints of an existing one, is needed")
	case len(o.Endpoints) > 0 && (len(o.Initial) > 0 || o.Listen != ""):
		refuse("endpoints %v: an existing etcd cluster excludes an initial cluster of masters", o.Endpoints)
	}
	if len(o.Initial) > 0 {
		errs = append(errs, o.validateInitial()...)
	}
	return errors.Join(errs...)
}

func (o Options) validateInitial() (errs []error) {
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if n := len(o.Initial); n != 1 && n != 3 && n != 5 {
		refuse("initial cluster of %d masters: 1, 3 or 5 are allowed", n)
	}
	if _, ok := o.Initial[o.ID]; !ok {
		refuse("initial cluster %v: must contain this master, %q", slices.Sorted(maps.Keys(o.Initial)), o.ID)
	}
	seen := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(o.Initial)) {
		addr := o.Initial[id]
		if _, _, err := net.SplitHostPort(addr); err != nil {
			refuse("peer address %q of master %s: must be HOST:PORT", addr, id)
		}
		if other, ok := seen[addr]; ok {
			refuse("peer address %q: given to both %s and %s", addr, other, id)
		}
		seen[addr] = id
	}
	return errs
}
