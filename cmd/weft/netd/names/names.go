// SPDX-License-Identifier: Apache-2.0

// Package names reads the file of --names: what a node answers besides what rows say, and whom it asks for foreign names.
package names

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// File is the form of the file.
type File struct {
	// TTL is for names of tasks, nodes and masters, a duration in whole seconds.
	TTL string `json:"ttl,omitempty"`
	// Zones say how single zones differ, by their names. One that is not Weft's own is answered from Records
	// alone.
	Zones map[string]Zone `json:"zones,omitempty"`
	// Records may be in Zones or in Weft's own zones, where they are added to what is there.
	Records []Record `json:"records,omitempty"`
	// Forward leads from zones to the resolvers that answer for them; the longest zone decides.
	Forward map[string][]string `json:"forward,omitempty"`
	// Key is the public key that a cluster of DC/OS is called by, in z-base-32: KEY.dcos.directory is thisdcos.directory then.
	Key string `json:"key,omitempty"`
	// Rate is how many questions a second one task may ask the server; 0: 10,000, negative: no limit.
	Rate int `json:"rate,omitempty"`
	// Order of a name's addresses: rotate, from answer to answer, or fixed, always the same; empty: rotate.
	Order string `json:"order,omitempty"`
}

// Zone is how answers of one zone differ.
type Zone struct {
	TTL string `json:"ttl,omitempty"` // of its records, in place of File.TTL and of what is usual there
	// Health leaves out tasks that are not well while others of the name are; by default in the zone weft only.
	Health *bool `json:"health,omitempty"`
}

// Record is a record of the file.
type Record struct {
	Name  string `json:"name"`
	Type  string `json:"type"`  // A, AAAA, CNAME, PTR or SRV
	Value string `json:"value"` // an address; CNAME, PTR: a name; SRV: a name and a port, host.example:80
	TTL   uint32 `json:"ttl,omitempty"`
	// Network is the only one whose tasks see it, besides the hosts; empty: all do.
	Network string `json:"network,omitempty"`
}

// Static is what the file comes to, checked.
type Static struct {
	TTL     time.Duration            // 0: as usual
	TTLs    map[string]time.Duration // by zone
	Heeding []string                 // zones where health counts; nil: as usual
	Zones   []string                 // that are not Weft's
	Records []record.Record
	Forward map[string][]netip.AddrPort // resolvers, by zone
	Rate    int                         // as in File
	Fixed   bool                        // addresses come in the same order always
	Key     string                      // lower case
}

// clusterKey is the form of a public key of 32 bytes in z-base-32.
var clusterKey = regexp.MustCompile("^[ybndrfg8ejkmcpqxot1uwisza345h769]{52}$")

// Read reads the file; an empty path is an empty file.
func Read(path string) (Static, error) {
	if path == "" {
		return Static{}, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Static{}, fmt.Errorf("read names: %w", err)
	}
	var n File
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return Static{}, fmt.Errorf("names of %s: %w", path, err)
	}
	s, err := n.read(path)
	if err != nil {
		return Static{}, fmt.Errorf("names of %s: %w", path, err)
	}
	return s, nil
}

// read checks everything and joins every problem.
func (n File) read(path string) (Static, error) {
	s := Static{Rate: n.Rate, Fixed: n.Order == "fixed", Key: strings.ToLower(n.Key)}
	var errs []error
	if s.Key != "" && !clusterKey.MatchString(s.Key) {
		errs = append(errs, fmt.Errorf("key is %q: 52 characters of z-base-32 are allowed, as in names that end in KEY.dcos.directory", n.Key))
	}
	if n.Order != "" && n.Order != "rotate" && !s.Fixed {
		errs = append(errs, fmt.Errorf("order is %q: rotate and fixed are allowed", n.Order))
	}
	var err error
	if s.TTL, err = readTTL(n.TTL); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, s.readZones(n.Zones)...)
	own := zone.New(zone.Options{Zones: s.Zones})
	for i, r := range n.Records {
		made, err := r.read(path)
		if err == nil {
			apex, ok := own.Apex(made.Name)
			switch {
			case !ok:
				err = fmt.Errorf("name is %q: one in %v or in Weft's own zones is allowed", r.Name, s.Zones)
			case made.Type == record.CNAME && apex == made.Name:
				err = fmt.Errorf("name is %q: a zone itself is no alias (RFC 1034, section 3.6.2)", r.Name)
			case made.TTL == 0:
				made.TTL = uint32(cmp.Or(s.TTLs[strings.TrimSuffix(apex, ".")], zone.DefaultTTL) / time.Second)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("records[%d]: %w", i, err))
		}
		s.Records = append(s.Records, made)
	}
	errs = append(errs, checkAliases(s.Records)...)
	s.Forward, err = readForward(n.Forward)
	return s, errors.Join(append(errs, err)...)
}

// readZones reads how zones differ.
func (s *Static) readZones(zones map[string]Zone) []error {
	var errs []error
	weft := zone.New(zone.Options{})
	heeding := map[string]bool{zone.OwnZone: true}
	s.TTLs = map[string]time.Duration{}
	for _, text := range slices.Sorted(maps.Keys(zones)) {
		fqdn, err := domain(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("zones: %w", err))
			continue
		}
		name := strings.TrimSuffix(fqdn, ".")
		switch apex, own := weft.Apex(fqdn); {
		case own && apex != fqdn:
			errs = append(errs, fmt.Errorf("zones: %q is in the zone %s: that one, or one outside of Weft's, is allowed", text, strings.TrimSuffix(apex, ".")))
			continue
		case !own:
			s.Zones = append(s.Zones, name)
		}
		ttl, err := readTTL(zones[text].TTL)
		if err != nil {
			errs = append(errs, fmt.Errorf("zones: %s: %w", name, err))
		}
		if ttl > 0 {
			s.TTLs[name] = ttl
		}
		if h := zones[text].Health; h != nil {
			heeding[name] = *h
		}
	}
	s.Heeding = []string{} // not as usual: as it is here
	for _, name := range slices.Sorted(maps.Keys(heeding)) {
		if heeding[name] {
			s.Heeding = append(s.Heeding, name)
		}
	}
	return errs
}

// readTTL reads whole seconds; empty: 0.
func readTTL(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl < time.Second || ttl%time.Second != 0 {
		return 0, fmt.Errorf("ttl is %q: whole seconds are allowed, for example 60s", text)
	}
	return ttl, nil
}

// checkAliases tells names that have a CNAME and anything else: resolvers would see one or the other.
func checkAliases(records []record.Record) []error {
	var errs []error
	for i, r := range records {
		if r.Type != record.CNAME || r.Name == "" {
			continue
		}
		for j, other := range records {
			if i != j && other.Name == r.Name && (other.Type != record.CNAME || j > i) {
				errs = append(errs, fmt.Errorf("records[%d]: %s is an alias by records[%d]: nothing else is allowed there (RFC 1034, section 3.6.2)",
					j, strings.TrimSuffix(r.Name, "."), i))
			}
		}
	}
	return errs
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
			addr, err := Resolver(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("forward: %s: %w", name, err))
			}
			all[fqdn] = append(all[fqdn], addr)
		}
	}
	return all, errors.Join(errs...)
}

func (r Record) read(path string) (made record.Record, err error) {
	made = record.Record{TTL: r.TTL, Network: r.Network, From: "static/" + path}
	if made.Name, err = domain(r.Name); err != nil {
		return made, fmt.Errorf("name: %w", err)
	}
	switch r.Type {
	case "A", "AAAA":
		made.Type = record.A
		made.Addr, err = netip.ParseAddr(r.Value)
		if err != nil || made.Addr.Zone() != "" || made.Addr.Is4() != (r.Type == "A") {
			return made, fmt.Errorf("value is %q: for type %s an address of that family is allowed", r.Value, r.Type)
		}
		if r.Type == "AAAA" {
			made.Type = record.AAAA
		}
	case "CNAME", "PTR":
		made.Type = record.PTR
		if r.Type == "CNAME" {
			made.Type = record.CNAME
		}
		if made.Target, err = domain(r.Value); err != nil {
			return made, fmt.Errorf("value: %w", err)
		}
	case "SRV":
		made.Type = record.SRV
		host, text, _ := strings.Cut(r.Value, ":")
		port, err := strconv.ParseUint(text, 10, 16)
		if made.Port = uint16(port); err != nil || port == 0 {
			return made, fmt.Errorf("value is %q: a name and a port are allowed, for example db.example:5432", r.Value)
		}
		if made.Target, err = domain(host); err != nil {
			return made, fmt.Errorf("value: %w", err)
		}
	default:
		return made, fmt.Errorf("type is %q: A, AAAA, CNAME, PTR and SRV are allowed", r.Type)
	}
	return made, nil
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

// Resolver reads an address, or address:port.
func Resolver(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	p, err := netip.ParseAddrPort(text)
	if err != nil {
		return p, fmt.Errorf("resolver is %q: an address, or address:port, is allowed", text)
	}
	return p, nil
}
