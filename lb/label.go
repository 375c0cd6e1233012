// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Protocols of VIPs.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Label is a parsed VIP label: which VIP, and which port of the task it leads to.
type Label struct {
	Name      string     // as written, without a leading '/'; empty when Addr is set
	Addr      netip.Addr // literal address
	Port      uint16     // of the VIP
	Target    uint16     // of the task
	Protocols []string   // TCP, UDP or both
	Weight    uint16     // 1 unless given
	Balance   Balance
	Wait      time.Duration // 0: DefaultWait
}

// ParseLabel parses VIP=PORT[/PROTOCOL][,OPTION=VALUE...], where VIP is /NAME:PORT, NAME:PORT,
// IPv4:PORT, [IPv6]:PORT or IPv6:PORT (split at the last colon). Errors are ErrInvalid and say what to write instead.
func ParseLabel(s string) (Label, error) {
	l, err := parseLabel(s)
	if err != nil {
		return Label{}, fmt.Errorf("%w label %q: %w", ErrInvalid, s, err)
	}
	return l, nil
}

// parseVIP parses the part of a label before the '=': the name as written or the literal address,
// and the port.
func parseVIP(s string) (name string, vip netip.AddrPort, err error) {
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		return "", netip.AddrPort{}, errors.New("the VIP has no port; write /NAME:PORT, such as /web:80")
	}
	port, err := parsePort(s[colon+1:])
	if err != nil {
		return "", netip.AddrPort{}, fmt.Errorf("port of the VIP: %w", err)
	}
	name, addr, err := parseHost(s[:colon])
	if err != nil {
		return "", netip.AddrPort{}, err
	}
	return name, netip.AddrPortFrom(addr, port), nil
}

func parseLabel(s string) (Label, error) {
	// A name may hold '=' and ',', so what the port is followed by counts; nothing after it holds ':'.
	colon := max(0, strings.LastIndexByte(s, ':'))
	before, after, ok := strings.Cut(s[colon:], "=")
	if !ok {
		return Label{}, errors.New("no '='; write VIP=PORT, such as /web:80=8080")
	}
	name, vip, err := parseVIP(s[:colon] + before)
	if err != nil {
		return Label{}, err
	}
	parts := strings.Split(after, ",")
	number, protocol, given := strings.Cut(parts[0], "/")
	target, err := parsePort(number)
	if err != nil {
		return Label{}, fmt.Errorf("port of the task: %w", err)
	}
	l := Label{Name: name, Addr: vip.Addr(), Port: vip.Port(), Target: target, Protocols: []string{TCP, UDP}, Weight: 1}
	if given {
		p := strings.ToLower(protocol)
		if p != TCP && p != UDP {
			return Label{}, fmt.Errorf("protocol %q: allowed are tcp and udp, or none for both", protocol)
		}
		l.Protocols = []string{p}
	}
	err = readOptions(&l, parts[1:])
	return l, err
}

// parseHost tells literal addresses from names. What only looks like an address is refused: it
// would become a name that nobody meant ("[fd01::1]" was "fd011" in DC/OS).
func parseHost(s string) (string, netip.Addr, error) {
	if named, ok := strings.CutPrefix(s, "/"); ok {
		return named, netip.Addr{}, checkName(named)
	}
	literal := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		literal = s[1 : len(s)-1]
	}
	addr, err := netip.ParseAddr(literal)
	switch {
	case err == nil && literal != s && addr.Is4():
		return "", netip.Addr{}, fmt.Errorf("address %q: brackets are for IPv6; write %s", s, literal)
	case err == nil:
		addr, err = checkAddr(addr)
		return "", addr, err
	case literal != s || strings.ContainsAny(s, "[]:"):
		return "", netip.Addr{}, fmt.Errorf("%q is no IPv6 address; write it like [fd01:c::5], or /NAME for a name", s)
	case strings.Contains(s, ".") && strings.Trim(s, "0123456789. ") == "":
		return "", netip.Addr{}, fmt.Errorf("%q looks like an IPv4 address but is none; write four numbers up to 255, or /%s when a name is meant", s, s)
	}
	return s, netip.Addr{}, checkName(s)
}

func checkName(s string) error {
	_, err := Mangle(s, DefaultFramework)
	return err
}

// checkAddr refuses addresses that mean something else on every machine.
func checkAddr(a netip.Addr) (netip.Addr, error) {
	if a.Zone() != "" {
		return a, fmt.Errorf("address %s has a zone; a VIP is the same on every node", a)
	}
	a = a.Unmap()
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return a, fmt.Errorf("address %s: loopback, link-local, multicast and unspecified addresses can't be VIPs", a)
	}
	return a, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || s == "" || s[0] == '+' {
		return 0, fmt.Errorf("%q is no number; write 1 to 65535", s)
	}
	if n == 0 || n > 65535 {
		return 0, fmt.Errorf("%s is out of range; write 1 to 65535", s)
	}
	return uint16(n), nil
}
