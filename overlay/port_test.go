// SPDX-License-Identifier: Apache-2.0

package overlay_test

import (
	"net/netip"
	"testing"

	"weft/overlay"
)

func TestParsePortMapping(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]overlay.PortMapping{
		"8080:80":              {HostPort: 8080, Port: 80, Protocol: "tcp"},
		"53:5353/udp":          {HostPort: 53, Port: 5353, Protocol: "udp"},
		"10.0.0.1:8080:80/tcp": {HostIP: netip.MustParseAddr("10.0.0.1"), HostPort: 8080, Port: 80, Protocol: "tcp"},
		"[fd77::1]:8080:80":    {HostIP: netip.MustParseAddr("fd77::1"), HostPort: 8080, Port: 80, Protocol: "tcp"},
	} {
		got, err := overlay.ParsePortMapping(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v %v, want %+v", text, got, err, want)
		}
		if again, err := overlay.ParsePortMapping(got.String()); err != nil || again != got {
			t.Errorf("%s: written as %s it is %+v %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "80", "a:80", "80:b", "80:80/", "70000:80", "80:70000", "1.2.3:80:80", "fd77::1:80:80"} {
		_, err := overlay.ParsePortMapping(text)
		complains(t, err, overlay.ErrInvalid, "[HOST_IP:]HOST_PORT:PORT")
	}
	_, err := overlay.ParsePortMapping("0:80")
	complains(t, err, overlay.ErrInvalid, "host_port is 0")
	_, err = overlay.ParsePortMapping("80:80/sctp")
	complains(t, err, overlay.ErrInvalid, `"sctp"`, "tcp and udp")
	_, err = overlay.ParsePortMapping("[ff02::1]:80:80")
	complains(t, err, overlay.ErrInvalid, "ff02::1", "multicast")
	_, err = overlay.ParsePortMapping("[::1]:80:80")
	complains(t, err, overlay.ErrInvalid, "::1 is not allowed")
}

func TestPortMappingClashes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"80:80", "80:81", true},
		{"80:80", "81:80", false},
		{"80:80/tcp", "80:80/udp", false},
		{"80:80", "10.0.0.1:80:80", true},
		{"10.0.0.1:80:80", "10.0.0.2:80:80", false},
		{"0.0.0.0:80:80", "10.0.0.2:80:80", true},
		{"0.0.0.0:80:80", "[fd77::1]:80:80", false},
		{"[::]:80:80", "80:80", true},
	} {
		a, _ := overlay.ParsePortMapping(c.a)
		b, _ := overlay.ParsePortMapping(c.b)
		if a.Clashes(b) != c.want || b.Clashes(a) != c.want {
			t.Errorf("%s and %s: got %t and %t, want %t", c.a, c.b, a.Clashes(b), b.Clashes(a), c.want)
		}
	}
}
