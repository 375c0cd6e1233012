// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// DefaultFramework is the framework of tasks that no scheduler runs.
const DefaultFramework = "weft"

// Limits of a Name.
const (
	maxTask  = 512 // bytes of a task id
	maxAddrs = 64
	maxPorts = 256
)

// Validate returns every problem of a name, each with field, value and what is allowed; all are
// ErrInvalid.
func (n Name) Validate() error {
	var errs []error
	bad := func(field string, value any, allowed string) {
		errs = append(errs, fmt.Errorf("%s %q: %w: %s", field, fmt.Sprint(value), ErrInvalid, allowed))
	}
	if n.Task == "" || len(n.Task) > maxTask || strings.ContainsFunc(n.Task, isControl) {
		bad("task", n.Task, fmt.Sprintf("a task id has 1 to %d bytes and no control characters", maxTask))
	}
	if !isLabel(n.Label) {
		bad("label", n.Label, labelRule)
	}
	if n.Framework != "" && !strings.ContainsFunc(strings.ToLower(n.Framework), isLetterOrDigit) {
		bad("framework", n.Framework, "at least one letter a-z or digit is needed")
	}
	if n.Network != "" && !isLabel(n.Network) {
		bad("network", n.Network, labelRule)
	}
	if n.Node != "" && !isLabel(string(n.Node)) {
		bad("node", n.Node, labelRule)
	}
	if len(n.Addrs) == 0 || len(n.Addrs) > maxAddrs {
		bad("addrs", len(n.Addrs), fmt.Sprintf("a name has 1 to %d addresses", maxAddrs))
	}
	for _, a := range n.Addrs {
		if !isTaskAddr(a) {
			bad("addrs", a, "an address of a task is unicast, not loopback, and has no zone")
		}
	}
	if len(n.Ports) > maxPorts {
		bad("ports", len(n.Ports), fmt.Sprintf("a name has up to %d ports", maxPorts))
	}
	for _, p := range n.Ports {
		errs = append(errs, p.validate())
	}
	return errors.Join(errs...)
}

func (p NamedPort) validate() error {
	var errs []error
	if p.Name != "" && !isLabel(p.Name) {
		errs = append(errs, fmt.Errorf("ports name %q: %w: %s", p.Name, ErrInvalid, labelRule))
	}
	if p.Protocol != "tcp" && p.Protocol != "udp" {
		errs = append(errs, fmt.Errorf("ports protocol %q: %w: tcp or udp", p.Protocol, ErrInvalid))
	}
	if p.Port == 0 {
		errs = append(errs, fmt.Errorf("ports port 0: %w: 1 to 65535", ErrInvalid))
	}
	return errors.Join(errs...)
}

const labelRule = "a DNS label has 1 to 63 characters a-z, 0-9 and -, with no - at its ends"

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r != '-' && !isLetterOrDigit(r) })
}

func isLetterOrDigit(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func isTaskAddr(a netip.Addr) bool {
	a4 := a.Unmap()
	return a.IsValid() && a.Zone() == "" && !a4.IsUnspecified() && !a4.IsLoopback() && !a4.IsMulticast() &&
		a4 != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
