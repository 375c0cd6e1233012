// SPDX-License-Identifier: Apache-2.0

package lb_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/lb"
)

func TestParseKey(t *testing.T) {
	t.Parallel()
	addrs := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	for text, want := range map[string]lb.Key{
		"web.weft:80":          {Name: "web.weft", Port: 80, Protocol: lb.TCP},
		"web:443/tcp":          {Name: "web.weft", Port: 443, Protocol: lb.TCP},
		"web.marathon:53/udp":  {Name: "web.marathon", Port: 53, Protocol: lb.UDP},
		"198.51.100.7:53/udp":  {Addr: netip.MustParseAddr("198.51.100.7"), Port: 53, Protocol: lb.UDP},
		"[2001:db8::7]:80/tcp": {Addr: netip.MustParseAddr("2001:db8::7"), Port: 80, Protocol: lb.TCP},
	} {
		want.Network = "prod"
		got, err := lb.ParseKey("prod", text)
		if diff := cmp.Diff(want, got, addrs); err != nil || diff != "" {
			t.Errorf("%s (%v, -want +got):\n%s", text, err, diff)
		}
	}
	for text, says := range map[string]string{
		"web.weft": "no port", "web.weft:0": "no port", "web.weft:80/sctp": "protocol", ":80": "no port", "": "no port",
	} {
		if _, err := lb.ParseKey("prod", text); !errors.Is(err, lb.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, want it to say %q", text, err, says)
		}
	}
}

func TestPublicationsAreChecked(t *testing.T) {
	t.Parallel()
	valid := lb.Publication{
		Addr: netip.MustParseAddr("203.0.113.10"), Port: 443, VIP: lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP},
	}
	if err := valid.Validate(); err != nil {
		t.Error(err)
	}
	if got := valid.Name(); got != "203.0.113.10:443/tcp" {
		t.Errorf("name is %s", got)
	}
	for says, change := range map[string]func(*lb.Publication){
		"unicast":                       func(p *lb.Publication) { p.Addr = netip.MustParseAddr("224.0.0.1") },
		"11.0.0.0/8":                    func(p *lb.Publication) { p.Addr = netip.MustParseAddr("11.1.2.3") },
		"fd01:c::/64":                   func(p *lb.Publication) { p.Addr = netip.MustParseAddr("fd01:c::5") },
		"port is 0":                     func(p *lb.Publication) { p.Port = 0 },
		"no network":                    func(p *lb.Publication) { p.VIP.Network = "" },
		"of the VIP is host: a virtual": func(p *lb.Publication) { p.VIP.Network = "host" },
		"sctp":                          func(p *lb.Publication) { p.VIP.Protocol = "sctp" },
		"exactly one":                   func(p *lb.Publication) { p.VIP.Name = "" },
		"udp alone":                     func(p *lb.Publication) { p.QUIC = true },
		"return is":                     func(p *lb.Publication) { p.Return = "snat" },
	} {
		p := valid
		change(&p)
		if err := p.Validate(); !errors.Is(err, lb.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want it to say %q", err, says)
		}
	}
}

func TestParseReturn(t *testing.T) {
	t.Parallel()
	p := lb.Publication{
		Addr: netip.MustParseAddr("203.0.113.10"), Port: 443, VIP: lb.Key{Network: "prod", Name: "web.weft", Port: 80, Protocol: lb.TCP},
	}
	for text, want := range map[string]lb.Return{"": lb.ReturnDirect, "direct": lb.ReturnDirect, "edge": lb.ReturnEdge} {
		got, err := lb.ParseReturn(text)
		if p.Return = got; got != want || err != nil || p.Validate() != nil {
			t.Errorf("%q: got %q, %v (%v), want %q", text, got, err, p.Validate(), want)
		}
		if again, err := lb.ParseReturn(got.String()); again != got || err != nil {
			t.Errorf("%q is written %q, which is read as %q, %v", text, got, again, err)
		}
	}
	if _, err := lb.ParseReturn("snat"); !errors.Is(err, lb.ErrInvalid) || !strings.Contains(err.Error(), "direct") || !strings.Contains(err.Error(), "edge") {
		t.Errorf("got %v, want it to say what is allowed", err)
	}
	if p.Return = "direct"; p.Validate() == nil {
		t.Error("two forms of one publication are valid")
	}
}
