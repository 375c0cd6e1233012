// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/discovery/mesos"
)

// Limits of what is fetched.
const (
	maxDocument   = 1 << 30 // bytes
	lookUpWithin  = 5 * time.Second
	lookUpsAtOnce = 16
)

// The pages where a master has its state: since Mesos 0.25, and before.
var statePages = []string{"/master/state", "/master/state.json"}

// source fetches the state of the leading master. One fetch at a time.
type source struct {
	config Config
	client *http.Client
	scheme string
	login  *login // nil: masters don't ask for a token
	log    *slog.Logger
	// lookUp resolves a host name.
	lookUp func(ctx context.Context, host string) ([]netip.Addr, error)
	// known are the addresses of host names when they were last resolved.
	known map[string][]netip.Addr
	// masters are told the credentials, each at its host:port; checked is where those are connected to that were named otherwise.
	masters  map[string]bool
	checked  sync.Map // of host:port: a connection that came too late for one fetch may still read it in the next
	stranger string   // who was asked without credentials last
	size     int      // of the last document, bytes
}

func newSource(c Config, log *slog.Logger) (*source, error) {
	s := &source{config: c, scheme: "http", log: log, known: map[string][]netip.Addr{}}
	// Masters are asked once in a while: no connection is kept meanwhile.
	transport := &http.Transport{DisableKeepAlives: true, DialContext: s.dial}
	certificates, err := tlsConfig(c) // those that can't be read are told of even if nobody needs them
	if err != nil {
		return nil, err
	}
	if c.MesosHTTPSOn {
		s.scheme = "https"
	}
	if c.MesosHTTPSOn || c.CACertFile != "" { // an account may log in by https even so
		transport.TLSClientConfig = certificates
	}
	s.client = &http.Client{
		Transport: verifying{transport, c.CACertFile}, Timeout: time.Duration(c.StateTimeoutSeconds) * time.Second, CheckRedirect: s.redirected,
	}
	if c.MesosAuthentication == "iam" {
		client := *s.client
		client.CheckRedirect = stayThere
		if s.login, err = newLogin(c.IAMConfigFile, &client); err != nil {
			return nil, err
		}
	}
	s.lookUp = func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	return s, nil
}

// tlsConfig trusts who CACertFile says; without it anybody, as Mesos-DNS does.
func tlsConfig(c Config) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.CACertFile == ""}
	if c.CACertFile != "" {
		text, err := os.ReadFile(c.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("CACertFile: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("CACertFile: %s: no certificate is in it", c.CACertFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("CertFile, KeyFile: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// verifying says of a certificate that is not trusted what decides that.
type verifying struct {
	http.RoundTripper
	authorities string // CACertFile
}

// RoundTrip implements http.RoundTripper.
func (v verifying) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := v.RoundTripper.RoundTrip(r)
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		by := "CACertFile " + v.authorities
		if v.authorities == "" {
			by = "the host's certificates, as there is no CACertFile"
		}
		err = fmt.Errorf("not trusted by %s: %w", by, err)
	}
	return answer, err
}

// fetch asks the masters in turn until one knows who leads, then that one. Those that ZooKeeper has
// come before those that are listed; Strict, they come instead.
func (s *source) fetch(ctx context.Context, found []string) (*mesos.Facts, error) {
	masters := slices.Clone(found)
	for _, m := range s.config.Masters {
		if !slices.Contains(masters, m) && (len(found) == 0 || !s.config.Strict) {
			masters = append(masters, m)
		}
	}
	if len(masters) == 0 {
		return nil, errors.New("no master is known")
	}
	s.masters = map[string]bool{}
	s.checked.Clear()
	for _, m := range masters {
		s.isOne(m)
	}
	if s.login != nil {
		if err := s.login.begin(ctx); err != nil {
			return nil, err
		}
	}
	var errs []error
	for _, master := range masters {
		state, err := s.follow(ctx, master)
		if err == nil {
			return state.Facts(mesos.Options{
				Masters: s.addresses(ctx, masters), Resolved: s.resolve(ctx, state.Hosts()),
			}), nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// follow asks a master, and the leader if that is another one: at its address, but at the port that is
// configured, as Mesos-DNS does.
func (s *source) follow(ctx context.Context, master string) (*mesos.State, error) {
	host, port, err := net.SplitHostPort(master)
	if err != nil {
		return nil, err
	}
	state, by, err := s.get(ctx, master)
	if err != nil {
		return nil, err
	}
	leader, _, err := net.SplitHostPort(state.Leader)
	if err != nil {
		return nil, fmt.Errorf("master %s: leader: %w", master, err)
	}
	if leader == host || !s.config.Strict && s.isAt(ctx, by.URL.Hostname(), leader) { // Mesos-DNS asks again
		return state, nil
	}
	at := net.JoinHostPort(leader, port)
	if by.Header.Get("Authorization") != "" { // a master says so
		s.isOne(at)
		s.isOne(state.Leader)
	}
	state, _, err = s.get(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("leader according to %s: %w", master, err)
	}
	return state, nil
}

// isAt tells whether a host is the one at an address. A name with several addresses may be that of all masters.
func (s *source) isAt(ctx context.Context, host, addr string) bool {
	at, err := netip.ParseAddr(addr)
	return host == addr || err == nil && slices.Equal(s.addrsOf(ctx, []string{host})[host], []netip.Addr{at.Unmap()})
}

// get fetches a state; by is the last request that it took, after redirections.
func (s *source) get(ctx context.Context, master string) (state *mesos.State, by *http.Request, err error) {
	for _, page := range s.pages() {
		var found bool
		if state, by, found, err = s.page(ctx, master, page); found || err != nil {
			break
		}
		err = errors.New("there is no state page")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("master %s: %w", master, err)
	}
	return state, by, nil
}

// pages are where a state may be: Mesos-DNS knows the present one alone.
func (s *source) pages() []string {
	if s.config.Strict {
		return statePages[:1]
	}
	return statePages
}

func (s *source) page(ctx context.Context, master, page string) (state *mesos.State, by *http.Request, found bool, err error) {
	answer, err := s.ask(ctx, s.scheme+"://"+master+page)
	if err != nil {
		return nil, nil, false, err
	}
	defer func() { _ = answer.Body.Close() }() // what matters was read
	switch {
	case s.config.Strict: // what parses is a state, whatever the status
	case answer.StatusCode == http.StatusNotFound:
		return nil, nil, false, nil
	case answer.StatusCode != http.StatusOK:
		return nil, nil, false, fmt.Errorf("%s: %s", answer.Request.URL, answer.Status)
	}
	// It is as long as the last one was, about: grown from nothing it would be twice that, and as much garbage.
	document := bytes.NewBuffer(make([]byte, 0, s.size+s.size/16+bytes.MinRead))
	if _, err := document.ReadFrom(io.LimitReader(answer.Body, maxDocument)); err != nil {
		return nil, nil, false, err
	}
	s.size = document.Len()
	if state, err = mesos.Parse(document.Bytes(), s.config.Strict); err == nil && s.config.Strict {
		err = resolvable(state.Actors())
	}
	return state, answer.Request, err == nil, err
}

// ask sends a request, and once more with another token when this one is not taken.
func (s *source) ask(ctx context.Context, page string) (*http.Response, error) {
	answer, err := s.send(ctx, page)
	if err != nil || answer.StatusCode != http.StatusUnauthorized || s.login == nil || answer.Request.Header.Get("Authorization") == "" {
		return answer, err
	}
	another, err := s.login.again(ctx)
	if !another {
		return answer, nil
	}
	_ = answer.Body.Close() // nothing of it matters
	if err != nil {
		return nil, err
	}
	return s.send(ctx, page)
}

// send asks for a page as who the configuration says.
func (s *source) send(ctx context.Context, page string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "Mesos-DNS")
	s.introduce(r)
	return s.client.Do(r)
}

// resolvable errs when an address, host:port, can't be resolved: Mesos-DNS reads no document with such a PID.
func resolvable(actors []string) error {
	seen := map[string]bool{}
	var g errgroup.Group
	g.SetLimit(lookUpsAtOnce)
	for _, at := range actors {
		if !seen[at] {
			seen[at] = true
			g.Go(func() error {
				if _, err := net.ResolveTCPAddr("tcp", at); err != nil {
					return fmt.Errorf("PID at %q: %w", at, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// addresses replaces host names of masters by addresses, where there are any.
func (s *source) addresses(ctx context.Context, masters []string) []string {
	out := slices.Clone(masters)
	for i, m := range out {
		host, port, err := net.SplitHostPort(m)
		if _, bad := netip.ParseAddr(host); err != nil || bad == nil {
			continue
		}
		if addrs := s.resolve(ctx, []string{host})[host]; len(addrs) > 0 {
			out[i] = net.JoinHostPort(addrs[0].String(), port)
		}
	}
	return out
}

// resolve looks up host names. One that can't be looked up now keeps the addresses that it had.
func (s *source) resolve(ctx context.Context, hosts []string) map[string][]netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, lookUpWithin)
	defer cancel()
	var mu sync.Mutex // guards fresh
	fresh := make(map[string][]netip.Addr, len(hosts))
	var g errgroup.Group
	g.SetLimit(lookUpsAtOnce)
	for _, h := range hosts {
		g.Go(func() error {
			addrs, err := s.lookUp(ctx, h)
			if err != nil && !s.config.Strict {
				addrs = s.known[h]
			}
			addrs = slices.Clone(addrs)
			for i, a := range addrs {
				addrs[i] = a.Unmap()
			}
			if !s.config.Strict { // else in the resolver's order, in which /v1/enumerate has their records
				slices.SortFunc(addrs, netip.Addr.Compare)
			}
			mu.Lock()
			defer mu.Unlock()
			fresh[h] = slices.Compact(addrs)
			return nil
		})
	}
	_ = g.Wait() // none errs
	maps.Copy(s.known, fresh)
	return fresh
}
