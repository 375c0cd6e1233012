// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"weft/discovery"
)

// maxTask is the longest task id, bytes: it is a part of row keys.
const maxTask = 255

// String returns the key as people and row keys write it: prod/web.weft:80/tcp.
func (k Key) String() string {
	host := k.Name
	if k.Addr.IsValid() {
		host = k.Addr.String()
		if k.Addr.Is6() {
			host = "[" + host + "]"
		}
	}
	return k.Network + "/" + host + ":" + strconv.Itoa(int(k.Port)) + "/" + k.Protocol
}

// Compare orders keys by name, address, port, protocol and network.
func (k Key) Compare(o Key) int {
	return cmp.Or(
		cmp.Compare(k.Name, o.Name),
		k.Addr.Compare(o.Addr),
		cmp.Compare(k.Port, o.Port),
		cmp.Compare(k.Protocol, o.Protocol),
		cmp.Compare(k.Network, o.Network),
	)
}

// RowKey is the key of b's row among the rows of its node.
func (b Backend) RowKey() string { return b.VIP.String() + "/" + b.Task }

// Backends returns what r comes to on a node: one Backend for each VIP key. Every problem of r is
// in the error, which is ErrInvalid.
func (r Registration) Backends(node discovery.NodeID) ([]Backend, error) {
	errs := r.validate()
	framework := cmp.Or(r.Framework, DefaultFramework)
	backends := make(map[Key]Backend)
	from := make(map[Key]string)
	for _, text := range r.Labels {
		label, err := ParseLabel(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		keys, err := label.keys(r.Network, framework)
		if err == nil {
			err = reachable(label.Addr, r.Addrs)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%w label %q: %w", ErrInvalid, text, err))
			continue
		}
		for _, key := range keys {
			if old, ok := backends[key]; ok && old.Port != label.Target {
				errs = append(errs, fmt.Errorf("%w label %q: %q leads the same VIP to port %d; a task is behind a VIP with one port",
					ErrInvalid, text, from[key], old.Port))
				break
			}
			backends[key] = Backend{VIP: key, Task: r.Task, Node: node, Addrs: r.Addrs, Port: label.Target, Weight: label.Weight, Balance: label.Balance, Wait: label.Wait, Health: r.Health, Check: r.Check}
			from[key] = text
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	list := make([]Backend, 0, len(backends))
	for _, b := range backends {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b Backend) int { return a.VIP.Compare(b.VIP) })
	return list, nil
}

func (r Registration) validate() []error {
	var errs []error
	invalid := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w registration: "+format, append([]any{ErrInvalid}, args...)...))
	}
	if r.Task == "" || len(r.Task) > maxTask {
		invalid("task id %q: 1 to %d characters are allowed", r.Task, maxTask)
	}
	if r.Network == "" {
		invalid("no network; name the one that the task is in")
	}
	if len(r.Labels) > 0 && len(r.Addrs) == 0 {
		invalid("task %s has no address to be reached at", r.Task)
	}
	if !r.Health.known() {
		invalid("health %q of task %s: %s", r.Health, r.Task, healths)
	}
	if len(r.Check) > MaxCheck {
		invalid("check of task %s has %d bytes: at most %d are allowed", r.Task, len(r.Check), MaxCheck)
	}
	for _, a := range r.Addrs {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() {
			invalid("address %s of task %s: a plain IPv4 or IPv6 address is allowed", a, r.Task)
		}
	}
	return errs
}

// Validate tells every problem of s; all are ErrInvalid.
func (s State) Validate() error {
	var errs []error
	if !s.Health.known() {
		errs = append(errs, fmt.Errorf("%w state: health %q: %s", ErrInvalid, s.Health, healths))
	}
	if len(s.Detail) > MaxDetail {
		errs = append(errs, fmt.Errorf("%w state: detail of %d bytes: at most %d are allowed", ErrInvalid, len(s.Detail), MaxDetail))
	}
	return errors.Join(errs...)
}

const healths = "healthy, unhealthy, unknown or nothing is allowed"

func (h Health) known() bool {
	return slices.Contains([]Health{Unchecked, Unknown, Healthy, Unhealthy}, h)
}

func (l Label) keys(network, framework string) ([]Key, error) {
	key := Key{Network: network, Addr: l.Addr, Port: l.Port}
	if !l.Addr.IsValid() {
		name, err := Mangle(l.Name, framework)
		if err != nil {
			return nil, err
		}
		key.Name = name
	}
	keys := make([]Key, 0, len(l.Protocols))
	for _, p := range l.Protocols {
		key.Protocol = p
		keys = append(keys, key)
	}
	return keys, nil
}

// reachable tells whether a literal VIP has an address of its own family to lead to.
func reachable(vip netip.Addr, addrs []netip.Addr) error {
	if !vip.IsValid() || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == vip.Is4() && a.Is6() == vip.Is6() }) {
		return nil
	}
	family := "IPv6"
	if vip.Is4() {
		family = "IPv4"
	}
	return fmt.Errorf("the VIP is %s and the task has no %s address", family, family)
}
