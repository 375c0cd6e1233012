// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// Config is Mesos-DNS's configuration, in the order in which /v1/config shows it. Keys are matched
// without case. Strict and Healthy are ours.
type Config struct {
	RefreshSeconds         int
	Port                   int
	Timeout                int // seconds, of a resolver
	StateTimeoutSeconds    int
	ZkDetectionTimeout     int
	HTTPPort               int `json:"HttpPort"`
	TTL                    int32
	SRVRecordDefaultWeight uint16
	SOASerial              uint32
	SOARefresh             uint32
	SOARetry               uint32
	SOAExpire              uint32
	SOAMinttl              uint32
	SOAMname               string
	SOARname               string
	Masters                []string
	ZoneResolvers          map[string][]string
	Resolvers              []string
	IPSources              []string
	Zk                     string
	Domain                 string
	File                   string
	Listener               string
	HTTPListener           string
	RecurseOn              bool
	DNSOn                  bool `json:"DnsOn"`
	HTTPOn                 bool `json:"HttpOn"`
	ExternalOn             bool
	EnforceRFC952          bool
	SetTruncateBit         bool
	EnumerationOn          bool
	MesosHTTPSOn           bool
	CACertFile             string
	CertFile               string
	KeyFile                string
	MesosCredentials       Credentials
	IAMConfigFile          string
	MesosAuthentication    string
	// Strict gives the answers of Mesos-DNS to the letter.
	Strict bool `json:"strict"`
	// Healthy leaves out tasks that are not well, by Mesos' own checks, while others of the name are.
	Healthy bool `json:"healthy"`
}

// Credentials are what a master asks for.
type Credentials struct {
	Principal string
	Secret    string
}

// Defaults are Mesos-DNS's.
func Defaults() Config {
	return Config{
		RefreshSeconds: 60, Port: 53, Timeout: 5, StateTimeoutSeconds: 300, ZkDetectionTimeout: 30, HTTPPort: 8123,
		TTL: 60, SRVRecordDefaultWeight: 1, SOARefresh: 60, SOARetry: 600, SOAExpire: 86400, SOAMinttl: 60,
		SOAMname: "ns1.mesos", SOARname: "root.ns1.mesos", ZoneResolvers: map[string][]string{}, Resolvers: []string{"8.8.8.8"},
		IPSources: []string{"netinfo", "mesos", "host"}, Domain: "mesos", Listener: "0.0.0.0", HTTPListener: "0.0.0.0",
		RecurseOn: true, DNSOn: true, HTTPOn: true, ExternalOn: true, SetTruncateBit: true, EnumerationOn: true,
	}
}

// Load reads a configuration file. A path may begin with ~/.
func Load(path, home string) (Config, error) {
	c := Defaults()
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		path = filepath.Join(home, rest)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	c.File = path
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	if err := c.complete(); err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// domainForm is what a domain may be.
var domainForm = regexp.MustCompile(`^[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*$`)

// complete brings the configuration into the form in which it is used, and tells all that is wrong
// with it.
func (c *Config) complete() error {
	c.Domain = strings.ToLower(c.Domain)
	c.SOARname = strings.TrimRight(strings.ReplaceAll(c.SOARname, "@", "."), ".") + "."
	c.SOAMname = strings.TrimRight(c.SOAMname, ".") + "."
	return errors.Join(c.validateSources(), c.validateServing(), c.validateForwarding())
}

func (c *Config) validateSources() error {
	var errs []error
	switch {
	case c.Zk != "":
		_, err := parseEnsemble(c.Zk)
		errs = append(errs, err)
	case len(c.Masters) == 0:
		errs = append(errs, errors.New("zk, masters: ZooKeeper's address (zk://host:port/mesos) or at least one master (host:port) is needed"))
	}
	errs = append(errs, distinct("masters", c.Masters, normalMaster))
	if len(c.IPSources) == 0 {
		errs = append(errs, errors.New("IPSources: at least one is needed: host, netinfo, mesos and docker are allowed"))
	}
	errs = append(errs, distinct("IPSources", c.IPSources, func(s string) (string, error) {
		switch zone.IPSource(s) {
		case zone.FromHost, zone.FromNetinfo, zone.FromMesos, zone.FromDocker:
			return s, nil
		}
		return "", errors.New("host, netinfo, mesos and docker are allowed")
	}))
	if (c.CertFile == "") != (c.KeyFile == "") {
		errs = append(errs, fmt.Errorf("CertFile %q, KeyFile %q: both or none are allowed", c.CertFile, c.KeyFile))
	}
	switch c.MesosAuthentication {
	case "":
	case "basic":
		if c.MesosCredentials == (Credentials{}) {
			errs = append(errs, errors.New("mesosCredentials: basic authentication needs a principal or a secret"))
		}
	case "iam":
		if c.IAMConfigFile == "" {
			errs = append(errs, errors.New("IAMConfigFile: iam authentication needs the file of a service account"))
		}
	default:
		errs = append(errs, fmt.Errorf("mesosAuthentication: %q: \"basic\", \"iam\" and nothing are allowed", c.MesosAuthentication))
	}
	return errors.Join(errs...)
}

func (c *Config) validateServing() error {
	var errs []error
	for _, n := range []struct {
		key      string
		value    int
		min, max int
	}{
		{"refreshSeconds", c.RefreshSeconds, 1, 1 << 30},
		{"stateTimeoutSeconds", c.StateTimeoutSeconds, 1, 1 << 30},
		{"zkDetectionTimeout", c.ZkDetectionTimeout, -1 << 30, 1 << 30},
		{"timeout", c.Timeout, 0, 1 << 30},
		{"ttl", int(c.TTL), 0, 1<<31 - 1},
		{"port", c.Port, 0, 65535},
		{"httpport", c.HTTPPort, 0, 65535},
	} {
		if n.value < n.min || n.value > n.max {
			errs = append(errs, fmt.Errorf("%s: %d: %d to %d are allowed", n.key, n.value, n.min, n.max))
		}
	}
	if !c.DNSOn && !c.HTTPOn {
		errs = append(errs, errors.New("dnson, httpon: one of them has to be true"))
	}
	if !domainForm.MatchString(c.Domain) {
		errs = append(errs, fmt.Errorf("domain: %q: labels of letters, digits and '-' are allowed, with dots between them", c.Domain))
	}
	if _, err := netip.ParseAddr(c.Listener); err != nil {
		errs = append(errs, fmt.Errorf("listener: %q: an IP address is allowed", c.Listener))
	}
	return errors.Join(errs...)
}

func (c *Config) validateForwarding() error {
	if !c.ExternalOn {
		return nil
	}
	errs := []error{distinct("resolvers", c.Resolvers, normalResolver)}
	names := append(slices.Sorted(maps.Keys(c.ZoneResolvers)), c.Domain)
	for _, name := range names[:len(names)-1] {
		resolvers := c.ZoneResolvers[name]
		if len(resolvers) == 0 {
			errs = append(errs, fmt.Errorf("zoneResolvers: %s: at least one resolver is needed", name))
		}
		if !domainForm.MatchString(name) {
			errs = append(errs, fmt.Errorf("zoneResolvers: %q: labels of letters, digits and '-' are allowed, with dots between them", name))
		}
		errs = append(errs, distinct("zoneResolvers "+name, resolvers, normalResolver))
		if name == c.Domain || strings.HasSuffix(name, "."+c.Domain) {
			errs = append(errs, fmt.Errorf("zoneResolvers: %s: lies in %s, which is answered here", name, c.Domain))
		}
	}
	return errors.Join(errs...)
}

// distinct checks the elements of a list; none may be there twice.
func distinct(key string, list []string, normal func(string) (string, error)) error {
	seen := map[string]bool{}
	var errs []error
	for _, text := range list {
		n, err := normal(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %q: %w", key, text, err))
		case seen[n]:
			errs = append(errs, fmt.Errorf("%s: %q: is there twice", key, text))
		}
		seen[n] = true
	}
	return errors.Join(errs...)
}

func normalMaster(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
		return "", errors.New("host:port is allowed")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.String()
	}
	return net.JoinHostPort(host, port), nil
}

func normalResolver(text string) (string, error) {
	a, err := resolver(text)
	return a.String(), err
}

// resolver reads an address with or without a port.
func resolver(text string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(a.Unmap(), 53), nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil || a.Port() == 0 {
		return netip.AddrPort{}, errors.New("an IP address or IP:port is allowed")
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

func resolvers(list []string) []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, text := range list {
		if a, err := resolver(text); err == nil { // validateForwarding has seen them all
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// shown is the configuration as /v1/config shows it: all but the secret.
func (c *Config) shown(serial uint32) Config {
	s := *c
	s.SOASerial = serial
	if s.MesosCredentials.Secret != "" {
		s.MesosCredentials.Secret = "******"
	}
	return s
}

// zone is what the configuration says of the zone. servers are the addresses at which it is served.
func (c *Config) zone(servers []netip.Addr) zone.Options {
	o := zone.Options{
		Domain: c.Domain, TTL: time.Duration(c.TTL) * time.Second, Servers: servers, RFC952: c.EnforceRFC952,
		MesosOnly: true, Strict: c.Strict, Weight: c.SRVRecordDefaultWeight,
		Start: record.Start{
			Server: c.SOAMname, Mailbox: c.SOARname, Refresh: c.SOARefresh, Retry: c.SOARetry, Expire: c.SOAExpire, Minimum: c.SOAMinttl,
		},
	}
	if c.Healthy {
		o.Heeding = []string{c.Domain}
	}
	if c.TTL == 0 {
		o.TTL = time.Nanosecond // no whole second, and not the zone's default
	}
	for _, s := range c.IPSources {
		o.IPSources = append(o.IPSources, zone.IPSource(s))
	}
	return o
}
