// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"weft/discovery/zone"
)

// Names is the file of --names: what this node answers besides what rows say, and whom it asks.
type Names struct {
	// TTL is for names of tasks, nodes and masters, a duration in whole seconds.
	TTL string `json:"ttl,omitempty"`
	// Zones are names of zones that are answered from Records alone.
	Zones []string `json:"zones,omitempty"`
	// Records may be in Zones or in Weft's own zones, where they are added to what is there.
	Records []StaticRecord `json:"records,omitempty"`
	// Forward leads from zones to the resolvers that answer for them; the longest zone decides.
	Forward map[string][]string `json:"forward,omitempty"`
	// Rate is how many questions a second one task may ask the server; 0: 10,000, negative: no limit.
	Rate int `json:"rate,omitempty"`
}

// StaticRecord is a record of the file.
type StaticRecord struct {
	Name  string `json:"name"`
	Type  string `json:"type"`  // A, AAAA, SRV or PTR
	Value string `json:"value"` // an address; PTR: a name; SRV: a name and a port, host.example:80
	TTL   uint32 `json:"ttl,omitempty"`
	// Network is the only one whose tasks see it, besides the hosts; empty: all do.
	Network string `json:"network,omitempty"`
}

// static is the file's part of the zones.
type static struct {
	ttl     time.Duration
	zones   []string
	records []zone.Record
	forward map[string][]netip.AddrPort
	rate    int
}

// readNames reads the file; an empty path is an empty file.
func readNames(path string) (static, error) {
	if path == "" {
		return static{}, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return static{}, fmt.Errorf("read names: %w", err)
	}
	var n Names
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return static{}, fmt.Errorf("names of %s: %w", path, err)
	}
	s, err := n.read(path)
	if err != nil {
		return static{}, fmt.Errorf("names of %s: %w", path, err)
	}
	return s, nil
}

// read checks everything and joins every problem.
func (n Names) read(path string) (static, error) {
	s := static{rate: n.Rate}
	var errs []error
	if n.TTL != "" {
		ttl, err := time.ParseDuration(n.TTL)
		if err != nil || ttl < time.Second || ttl%time.Second != 0 {
			errs = append(errs, fmt.Errorf("ttl is %q: whole seconds are allowed, for example 60s", n.TTL))
		}
		s.ttl = ttl
	}
	for _, name := range n.Zones {
		fqdn, err := domain(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("zones: %w", err))
		}
		s.zones = append(s.zones, strings.TrimSuffix(fqdn, "."))
	}
	for i, r := range n.Records {
		record, err := r.read(path)
		if err == nil {
			if _, own := zone.New(zone.Options{Zones: s.zones}).Apex(record.Name); !own {
				err = fmt.Errorf("name is %q: one in %v or in Weft's own zones is allowed", r.Name, n.Zones)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("records[%d]: %w", i, err))
		}
		s.records = append(s.records, record)
	}
	var err error
	s.forward, err = readForward(n.Forward)
	return s, errors.Join(append(errs, err)...)
}

// readForward reads the resolvers of zones.
func readForward(forward map[string][]string) (map[string][]netip.AddrPort, error) {
	all := map[string][]netip.AddrPort{}
	var errs []error
	for name, list := range forward {
		fqdn, err := domain(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("forward: %w", err))
		}
		if len(list) == 0 {
			errs = append(errs, fmt.Errorf("forward: %s has no resolver: one or more are needed", name))
		}
		for _, text := range list {
			addr, err := resolver(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("forward: %s: %w", name, err))
			}
			all[fqdn] = append(all[fqdn], addr)
		}
	}
	return all, errors.Join(errs...)
}

func (r StaticRecord) read(path string) (record zone.Record, err error) {
	record = zone.Record{TTL: r.TTL, Network: r.Network, From: "static/" + path}
	if record.Name, err = domain(r.Name); err != nil {
		return record, fmt.Errorf("name: %w", err)
	}
	if record.TTL == 0 {
		record.TTL = uint32(zone.DefaultTTL / time.Second)
	}
	switch r.Type {
	case "A", "AAAA":
		record.Type = zone.A
		record.Addr, err = netip.ParseAddr(r.Value)
		if err != nil || record.Addr.Zone() != "" || record.Addr.Is4() != (r.Type == "A") {
			return record, fmt.Errorf("value is %q: for type %s an address of that family is allowed", r.Value, r.Type)
		}
		if r.Type == "AAAA" {
			record.Type = zone.AAAA
		}
	case "PTR":
		record.Type = zone.PTR
		if record.Target, err = domain(r.Value); err != nil {
			return record, fmt.Errorf("value: %w", err)
		}
	case "SRV":
		record.Type = zone.SRV
		host, port, found := strings.Cut(r.Value, ":")
		if _, err := fmt.Sscanf(port, "%d", &record.Port); !found || err != nil || record.Port == 0 {
			return record, fmt.Errorf("value is %q: a name and a port are allowed, for example db.example:5432", r.Value)
		}
		if record.Target, err = domain(host); err != nil {
			return record, fmt.Errorf("value: %w", err)
		}
	default:
		return record, fmt.Errorf("type is %q: A, AAAA, SRV and PTR are allowed", r.Type)
	}
	return record, nil
}

// domain is a name in lower case with its final dot.
func domain(text string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(c rune) bool {
			return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_'
		}) {
			return "", fmt.Errorf("%q is no name: labels of 1 to 63 letters, digits, - and _ are allowed, parted by dots", text)
		}
	}
	if len(name) > 253 {
		return "", fmt.Errorf("%q is no name: 253 characters are the most", text)
	}
	return name + ".", nil
}

// resolver reads an address, or address:port.
func resolver(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	p, err := netip.ParseAddrPort(text)
	if err != nil {
		return p, fmt.Errorf("resolver is %q: an address, or address:port, is allowed", text)
	}
	return p, nil
}
