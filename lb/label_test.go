// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestParseLabel(t *testing.T) {
	t.Parallel()
	both := []string{TCP, UDP}
	for text, want := range map[string]Label{
		"/web:80=8080":            {Name: "web", Port: 80, Target: 8080, Protocols: both},
		"web:80=8080":             {Name: "web", Port: 80, Target: 8080, Protocols: both},
		"/folder/app:80=1/tcp":    {Name: "folder/app", Port: 80, Target: 1, Protocols: []string{TCP}},
		"/dns:53=5353/UDP":        {Name: "dns", Port: 53, Target: 5353, Protocols: []string{UDP}},
		"/10.1:80=80":             {Name: "10.1", Port: 80, Target: 80, Protocols: both},
		"/a=b:80=81":              {Name: "a=b", Port: 80, Target: 81, Protocols: both},
		"//web//:80=80":           {Name: "/web//", Port: 80, Target: 80, Protocols: both},
		"/My App:80=80":           {Name: "My App", Port: 80, Target: 80, Protocols: both},
		"FD01:C::5:80=8080":       {Addr: netip.MustParseAddr("fd01:c::5"), Port: 80, Target: 8080, Protocols: both},
		"80:80=80":                {Name: "80", Port: 80, Target: 80, Protocols: both},
		"198.51.100.7:80=8080":    {Addr: netip.MustParseAddr("198.51.100.7"), Port: 80, Target: 8080, Protocols: both},
		"fd01:c::5:80=8080":       {Addr: netip.MustParseAddr("fd01:c::5"), Port: 80, Target: 8080, Protocols: both},
		"[fd01:c::5]:80=8080/tcp": {Addr: netip.MustParseAddr("fd01:c::5"), Port: 80, Target: 8080, Protocols: []string{TCP}},
		"[::ffff:1.2.3.4]:80=80":  {Addr: netip.MustParseAddr("1.2.3.4"), Port: 80, Target: 80, Protocols: both},
		"/web:65535=65535":        {Name: "web", Port: 65535, Target: 65535, Protocols: both},
		"/web:80=8080,weight=3":   {Name: "web", Port: 80, Target: 8080, Protocols: both, Weight: 3},
		"/web:80=8080,wait=500ms": {Name: "web", Port: 80, Target: 8080, Protocols: both, Wait: 500 * time.Millisecond},
		"/a,b=c:80=81/tcp,policy=round-robin,affinity=10m,prefer=zone": {
			Name: "a,b=c", Port: 80, Target: 81, Protocols: []string{TCP},
			Balance: Balance{Policy: RoundRobin, Affinity: 10 * time.Minute, Prefer: SameZone},
		},
	} {
		got, err := ParseLabel(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		want.Weight = max(want.Weight, 1)
		if d := cmp.Diff(want, got, compareAddrs); d != "" {
			t.Errorf("%q (-want +got):\n%s", text, d)
		}
	}
}

func TestBadLabelsAreRefusedWithWhatToWrite(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                             "no '='",
		"/web:80":                      "no '='",
		"/web=80":                      "no port",
		"/web:=80":                     `"" is no number`,
		"/web:http=80":                 `"http" is no number`,
		"/web:0=80":                    "0 is out of range; write 1 to 65535",
		"/web:65536=80":                "65536 is out of range",
		"/web:99999999999999999999=80": "out of range",
		"/web:+80=80":                  "is no number",
		"/web:80=":                     `port of the task: "" is no number`,
		"/web:80=70000":                "port of the task: 70000 is out of range",
		"/web:80=80/sctp":              `protocol "sctp": allowed are tcp and udp`,
		"/web:80=80/":                  `protocol "": allowed`,
		":80=80":                       "empty",
		"/:80=80":                      "empty",
		"/***:80=80":                   "none of the characters",
		"[fd01::x]:80=80":              `"[fd01::x]" is no IPv6 address`,
		"[web]:80=80":                  "is no IPv6 address",
		"[1.2.3.4]:80=80":              "brackets are for IPv6; write 1.2.3.4",
		"fd01:c:80=80":                 "is no IPv6 address",
		"10.1:80=80":                   "write four numbers up to 255, or /10.1 when a name is meant",
		" 10.0.0.2 :80=80":             "looks like an IPv4 address",
		"/web: 80=80":                  `" 80" is no number`,
		"/web:80 =80":                  `"80 " is no number`,
		"/web:-80=80":                  `"-80" is no number`,
		"[fd01:c::5]=80":               "is no number",
		" [fd01:c::5]:80=80":           "is no IPv6 address",
		"[fd01:c::5:80=80":             "is no IPv6 address",
		"10.0.0.256:80=80":             "looks like an IPv4 address",
		"1.2.3.4.5:80=80":              "looks like an IPv4 address",
		"127.0.0.1:80=80":              "can't be VIPs",
		"0.0.0.0:80=80":                "can't be VIPs",
		"[::1]:80=80":                  "can't be VIPs",
		"[::ffff:127.0.0.1]:80=8":      "can't be VIPs",
		"[fe80::1]:80=80":              "can't be VIPs",
		"[fe80::1%eth0]:80=80":         "zone",
		"224.0.0.1:80=80":              "can't be VIPs",
		"255.255.255.255:80=80":        "can't be VIPs",
		"/web:80=80,":                  `option "": allowed are weight, policy, affinity, prefer and wait`,
		"/web:80=80,heavy":             `option "heavy": allowed are weight`,
		"/web:80=80,wait=1ms":          "10ms to 1m0s are allowed",
		"/web:80=80,wait=2m":           "10ms to 1m0s are allowed",
		"/web:80=80,weight=":           `option "weight=": a weight of 0 (draining) to 1000 is allowed`,
		"/web:80=80,weight=1001":       "a weight of 0 (draining) to 1000 is allowed",
		"/web:80=80,weight=-1":         "a weight of 0 (draining) to 1000 is allowed",
		"/web:80=80,weight=1,weight=1": "option weight is given twice",
		"/web:80=80,policy=fastest":    "allowed are least-latency, least-connections, round-robin, random and maglev",
		"/web:80=80,affinity=10":       "whole seconds from 1s to 18h0m0s are allowed",
		"/web:80=80,affinity=1500ms":   "whole seconds from 1s",
		"/web:80=80,affinity=19h":      "whole seconds from 1s",
		"/web:80=80,prefer=rack":       "allowed are node and zone",
	} {
		got, err := ParseLabel(text)
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %+v %v, want ErrInvalid", text, got, err)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", text, err, want)
		}
	}
}

func TestRegistrationBecomesBackends(t *testing.T) {
	t.Parallel()
	addrs := []netip.Addr{netip.MustParseAddr("9.0.0.5"), netip.MustParseAddr("fd01:b::5")}
	r := Registration{Task: "web.1", Network: "prod", Addrs: addrs, Labels: []string{"/web:80=8080", "/WEB:80=8080/tcp", "[fd01:c::5]:81=8081/udp"}}
	got, err := r.Backends("n1")
	if err != nil {
		t.Fatal(err)
	}
	backend := func(k Key, port uint16) Backend {
		k.Network = "prod"
		return Backend{VIP: k, Task: "web.1", Node: "n1", Addrs: addrs, Port: port, Weight: 1}
	}
	want := []Backend{
		backend(Key{Addr: netip.MustParseAddr("fd01:c::5"), Port: 81, Protocol: UDP}, 8081),
		backend(Key{Name: "web.weft", Port: 80, Protocol: TCP}, 8080),
		backend(Key{Name: "web.weft", Port: 80, Protocol: UDP}, 8080),
	}
	if d := cmp.Diff(want, got, compareAddrs); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for i, key := range []string{"prod/[fd01:c::5]:81/udp/web.1", "prod/web.weft:80/tcp/web.1", "prod/web.weft:80/udp/web.1"} {
		if got[i].RowKey() != key {
			t.Errorf("row key %q, want %q", got[i].RowKey(), key)
		}
	}
}

func TestEveryProblemOfARegistrationIsNamed(t *testing.T) {
	t.Parallel()
	r := Registration{
		Addrs:  []netip.Addr{netip.MustParseAddr("9.0.0.5"), {}},
		Labels: []string{"/web:80=8080", "/web:80=8081", "/x:0=1", "[fd01:c::5]:80=80"},
	}
	_, err := r.Backends("n1")
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("%v, want ErrInvalid", err)
	}
	for _, want := range []string{
		"task id", "no network", "invalid IP", `label "/web:80=8081"`, `"/web:80=8080" leads the same VIP to port 8080`,
		`label "/x:0=1"`, "the VIP is IPv6 and the task has no IPv6 address",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\nhas no %q", err, want)
		}
	}
}

// Whatever a label holds, parsing ends with a usable key or with ErrInvalid.
func FuzzParseLabel(f *testing.F) {
	for _, s := range []string{"/web:80=8080", "[fd01:c::5]:80=8080/udp", "1.2.3.4:5=6", "/a=b:1=2", "[::]:1=1", "\x00:1=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLabel(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: %v is not ErrInvalid", s, err)
			}
			return
		}
		keys, err := l.keys("prod", DefaultFramework)
		if err != nil || len(keys) == 0 {
			t.Fatalf("%q: parsed, but %v %v", s, keys, err)
		}
		for _, k := range keys {
			if (k.Name == "") == !k.Addr.IsValid() || k.Port == 0 || l.Target == 0 {
				t.Fatalf("%q: key %+v to %d", s, k, l.Target)
			}
		}
	})
}
