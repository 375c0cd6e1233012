// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// maxRedirects is the standard library's.
const maxRedirects = 10

// introduce says who asks, if masters want to know: to masters alone, by the scheme of the configuration. A master is who
// masters has or ZooKeeper, and who one of these says leads, by its host and port; what else one sends us to is asked as
// nobody, whatever Go's client would do.
func (s *source) introduce(r *http.Request) {
	r.Header.Del("Authorization")
	if s.login == nil && s.config.MesosAuthentication == "" {
		return
	}
	if r.URL.Scheme != s.scheme || !s.isMaster(r.Context(), r.URL) {
		if to := r.URL.Scheme + "://" + r.URL.Host; to != s.stranger {
			s.stranger = to
			s.log.Warn("asked without credentials: masters alone are told them, each at its own port, by the configured scheme", "url", to)
		}
		return
	}
	if s.login != nil {
		r.Header.Set("Authorization", "token="+s.login.token)
		return
	}
	r.SetBasicAuth(s.config.MesosCredentials.Principal, s.config.MesosCredentials.Secret)
}

// redirected is what the client does when a master sends it to the one that leads.
func (s *source) redirected(next *http.Request, before []*http.Request) error {
	if len(before) >= maxRedirects {
		return fmt.Errorf("%d redirections", len(before))
	}
	s.introduce(next)
	return nil
}

// isMaster tells whether a URL leads to a master. Masters send to each other by name or by address, as it comes: a name is that of
// a master whose address it has, and is connected to at that address, not at another one that it might have the next moment.
func (s *source) isMaster(ctx context.Context, u *url.URL) bool {
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	if s.masters[endpoint(u.Hostname(), port)] {
		return true
	}
	hosts := []string{u.Hostname()}
	for m := range s.masters {
		if host, p, err := net.SplitHostPort(m); err == nil && p == port {
			hosts = append(hosts, host)
		}
	}
	addrs := s.addrsOf(ctx, hosts)
	for _, a := range addrs[u.Hostname()] {
		for _, h := range hosts[1:] {
			if slices.Contains(addrs[h], a) {
				s.checked.Store(net.JoinHostPort(u.Hostname(), port), net.JoinHostPort(a.String(), port))
				return true
			}
		}
	}
	return false
}

// addrsOf returns the addresses of hosts, some of which are addresses.
func (s *source) addrsOf(ctx context.Context, hosts []string) map[string][]netip.Addr {
	var names []string
	addrs := map[string][]netip.Addr{}
	for _, h := range hosts {
		if a, err := netip.ParseAddr(h); err == nil {
			addrs[h] = []netip.Addr{a.Unmap()}
		} else {
			names = append(names, h)
		}
	}
	maps.Copy(addrs, s.resolve(ctx, names))
	return addrs
}

// isOne takes a master for one, which is told the credentials.
func (s *source) isOne(master string) {
	if host, port, err := net.SplitHostPort(master); err == nil {
		s.masters[endpoint(host, port)] = true
	}
}

// endpoint is host:port in one form.
func endpoint(host, port string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.Unmap().String()
	}
	return net.JoinHostPort(host, port)
}

// dial connects to a master where it was found to be one.
func (s *source) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if at, ok := s.checked.Load(addr); ok {
		addr, _ = at.(string)
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// stayThere follows an IAM that sends who logs in elsewhere on its own host, never from https to http: what is posted is as
// good as a token for an hour.
func stayThere(next *http.Request, before []*http.Request) error {
	from := before[len(before)-1].URL
	switch {
	case len(before) >= maxRedirects:
		return fmt.Errorf("%d redirections", len(before))
	case next.URL.Hostname() != from.Hostname(), next.URL.Scheme != from.Scheme && next.URL.Scheme != "https":
		return errors.New("a redirection to another host, or from https, is not followed: name the host that answers in login_endpoint")
	}
	return nil
}
