// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/overlay/apply/firewall"
	"weft/overlay/compile"
)

// DefaultPort is the UDP port of tunnels (RFC 7348, IANA).
const DefaultPort = 4789

// HostOptions say what a node's namespace is set up for.
type HostOptions struct {
	Underlay Underlay
	Port     uint16 // of tunnels; 0: DefaultPort
	Port2    uint16 // for nodes that Port does not reach; 0: none
	// NameServers are on the loopback beside NameServer4 and NameServer6: some of NameServersDCOS.
	NameServers []netip.Addr
	// Dir keeps what settings were before, for Remove by a later process; empty: nowhere.
	Dir string
	Log *slog.Logger // nil: none
}

// Host is what a node needs once, whatever tasks it has.
type Host struct {
	o HostOptions

	firewall *firewall.Firewall

	mu       sync.Mutex // guards what follows
	settings *settings
}

// NewHost returns a Host that has done nothing yet.
func NewHost(o HostOptions) (*Host, error) {
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Port2 == o.Port {
		return nil, fmt.Errorf("host: second tunnel port %d is the first: another one, or none, is allowed", o.Port2)
	}
	s, err := openSettings(o.Dir, o.Log)
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	wall := firewall.New(firewall.Options{
		Node4: o.Underlay.Addr4, Node6: o.Underlay.Addr6, Links: linkPrefix, Tunnels: tunnelPrefix,
		Local: func() ([]netip.Addr, error) { return addrsOf(nil) },
	})
	return &Host{o: o, firewall: wall, settings: s}, nil
}

// Ensure sets up tunnel device, addresses of the name server, forwarding and firewall table, and
// returns the tunnel devices' ifindexes, that of a second port 0 where there is none. What is right is not touched.
func (h *Host) Ensure(ctx context.Context) (tunnel, second uint32, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.ensureLoopback(); err != nil {
		return 0, 0, fmt.Errorf("host: %w", err)
	}
	if err := h.ensureForwarding(); err != nil {
		return 0, 0, fmt.Errorf("host: %w", err)
	}
	// Before the device: nothing that comes out of it past the packet path may go on.
	if err := h.firewall.Ensure(ctx); err != nil {
		return 0, 0, fmt.Errorf("host: %w", err)
	}
	if tunnel, err = ensureTunnel(TunnelDevice, h.o.Port, h.o.Underlay); err != nil {
		return 0, 0, fmt.Errorf("host: tunnel device %s: %w", TunnelDevice, err)
	}
	if h.o.Port2 == 0 {
		_, err = removeLink(secondDevice)
	} else {
		second, err = ensureTunnel(secondDevice, h.o.Port2, h.o.Underlay)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("host: tunnel device %s: %w", secondDevice, err)
	}
	return tunnel, second, nil
}

// SetFirewall makes traffic from the networks' subnets to outside of them leave with the node's
// address, and ports of the node lead to tasks. Ports are sorted.
func (h *Host) SetFirewall(ctx context.Context, subnets []netip.Prefix, ports []compile.Port) error {
	if err := h.firewall.Set(ctx, subnets, ports); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	return nil
}

// Hold takes ports of the node, all or none. One that is held already is no error.
func (h *Host) Hold(ctx context.Context, ports []compile.Port) error {
	return h.firewall.Hold(ctx, ports)
}

// Release gives ports back to the node's programs. One that is not held is no error.
func (h *Host) Release(ctx context.Context, ports []compile.Port) error {
	return h.firewall.Release(ctx, ports)
}

// Remove undoes all that Ensure, EnsureNode and SetNode did, also in an earlier process, and names what was there. After
// an error the rest is removed all the same.
func (h *Host) Remove(ctx context.Context) (removed []string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	note := func(what string, was bool, err error) {
		if errs = append(errs, err); was && err == nil {
			removed = append(removed, what)
		}
	}
	was, err := h.firewall.Remove(ctx)
	note("nftables table inet "+firewall.Table, was, err)
	for _, name := range []string{TunnelDevice, secondDevice, NodeDevice} {
		was, err := removeLink(name)
		note("device "+name, was, err)
	}
	for _, a := range append(NameServersDCOS(), netip.MustParseAddr(NameServer4), netip.MustParseAddr(NameServer6)) {
		was, err := removeFromLoopback(a)
		note("address "+a.String()+" of lo", was, err)
	}
	for _, name := range slices.Sorted(maps.Keys(h.settings.was)) {
		was := h.settings.was[name]
		note("sysctl "+name+", which is "+was+" again", true, h.settings.restore(name))
	}
	if err := errors.Join(errs...); err != nil {
		return removed, fmt.Errorf("host: %w", err)
	}
	return removed, nil
}

// removeFromLoopback reports whether the address was there.
func removeFromLoopback(a netip.Addr) (bool, error) {
	lo, err := linkByName("lo")
	if err != nil || lo == nil {
		return false, err
	}
	err = netlink.AddrDel(lo, &netlink.Addr{IPNet: ipNet(single(a))})
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove %s from lo: %w", a, err)
	}
	return true, nil
}

func (h *Host) ensureLoopback() error {
	lo, err := linkByName("lo")
	if err != nil || lo == nil {
		return errors.Join(err, errors.New("there is no loopback device"))
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	// Of host scope, so that no packet of the node's own takes it for its source.
	for _, a := range append([]netip.Addr{netip.MustParseAddr(NameServer4)}, h.o.NameServers...) {
		if err := addAddress(lo, a, netlink.SCOPE_HOST); err != nil {
			return err
		}
	}
	err = addAddress(lo, netip.MustParseAddr(NameServer6), netlink.SCOPE_UNIVERSE)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EACCES) {
		return nil // IPv6 is not built, or switched off here
	}
	return err
}

// ensureForwarding lets the node forward between tasks and the world. Forwarding makes Linux ignore
// router advertisements, by which the underlay may have its routes: 2 stands for "all the same".
func (h *Host) ensureForwarding() error {
	links, err := allLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		name := "net/ipv6/conf/" + l.Attrs().Name + "/accept_ra"
		if was, err := readSysctl(name); err != nil || was != "1" || ours(l.Attrs().Name) {
			continue
		}
		if err := h.settings.set(name, "2"); err != nil {
			return err
		}
	}
	return errors.Join(
		h.settings.set("net/ipv4/ip_forward", "1"),
		h.settings.set("net/ipv6/conf/all/forwarding", "1"),
	)
}

// ensureTunnel makes a VXLAN device of that port.
func ensureTunnel(name string, port uint16, u Underlay) (uint32, error) {
	mtu := u.MTU - u.Overhead()
	have, err := linkByName(name)
	if err != nil {
		return 0, err
	}
	if have != nil && !isTunnel(have, port) {
		if err := netlink.LinkDel(have); err != nil {
			return 0, fmt.Errorf("remove what has its name: %w", err)
		}
		have = nil
	}
	if have == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, GBP: true, Port: int(port), UDP6ZeroCSumRx: true})
		if err != nil {
			return 0, inUse(port, err)
		}
		if have, err = linkByName(name); err != nil || have == nil {
			return 0, errors.Join(err, unix.ENODEV)
		}
	}
	// It speaks to nobody by itself.
	if err := quiet("net/ipv6/conf/" + name + "/disable_ipv6=1"); err != nil {
		return 0, err
	}
	if mtu > 0 && have.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(have, mtu); err != nil {
			return 0, fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	if err := netlink.LinkSetUp(have); err != nil {
		return 0, inUse(port, err)
	}
	return uint32(have.Attrs().Index), nil
}

func isTunnel(l netlink.Link, port uint16) bool {
	v, ok := l.(*netlink.Vxlan)
	return ok && v.FlowBased && v.GBP && v.Port == int(port)
}

// removeLink removes what has a name, and reports whether there was any.
func removeLink(name string) (bool, error) {
	l, err := linkByName(name)
	if err != nil || l == nil {
		return false, err
	}
	if err := netlink.LinkDel(l); err != nil {
		return false, fmt.Errorf("remove %s: %w", name, err)
	}
	return true, nil
}

// inUse gives a refusal of a port its name.
func inUse(port uint16, err error) error {
	if errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("UDP port %d is taken, by another weft netd or VXLAN device in this network namespace, "+
			"or by a program (see `ss -lunp`): free it, or choose another with --tunnel-port or --tunnel-port-2: %w", port, err)
	}
	return err
}
