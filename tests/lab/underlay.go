// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The underlay: one bridge in a namespace of its own, which is also the outside world.
//
//	h1 eth0 --+
//	h2 eth0 --+-- bridge 10.77.0.254, fd77::fe;  lo: World, World6
//	m1 eth0 --+
var (
	gateway  = netip.MustParsePrefix("10.77.0.254/24")
	gateway6 = netip.MustParsePrefix("fd77::fe/64")
)

// World and World6 are addresses outside of every network, reached through the default route.
var (
	World  = netip.MustParseAddr("203.0.113.1")
	World6 = netip.MustParseAddr("2001:db8::1")
)

func (l *Lab) fabric() string { return filepath.Join(l.Dir, "fabric", "netns") }

// InWorld runs f on a thread that is in the outside world's namespace.
func (l *Lab) InWorld(f func() error) error { return inside(l.fabric(), f) }

func (l *Lab) makeUnderlay() error {
	if err := newNamespace(l.fabric()); err != nil {
		return err
	}
	err := withNetlink(l.fabric(), func(h *netlink.Handle) error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "underlay", MTU: l.MTU}}
		if err := h.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make the underlay bridge: %w", err)
		}
		return configure(h, map[string][]netip.Prefix{
			"lo":       {netip.PrefixFrom(World, 32), netip.PrefixFrom(World6, 128)},
			"underlay": {gateway, gateway6},
		})
	})
	if err != nil {
		return err
	}
	for _, h := range l.all() {
		if err := l.plug(h); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	return nil
}

// Route makes the outside world send what is to an address by way of a host.
func (l *Lab) Route(to netip.Addr, by *Host) error {
	via := by.Addr
	if to.Is6() {
		via = by.Addr6
	}
	route := &netlink.Route{Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}, Gw: via.AsSlice()}
	return withNetlink(l.fabric(), func(h *netlink.Handle) error { return h.RouteReplace(route) })
}

// OnLink makes the outside world look for an address among the hosts themselves.
func (l *Lab) OnLink(to netip.Addr) error {
	return withNetlink(l.fabric(), func(h *netlink.Handle) error {
		link, err := h.LinkByName("underlay")
		if err != nil {
			return err
		}
		return h.RouteReplace(&netlink.Route{
			LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
			Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())},
		})
	})
}

// plug makes a host's namespace and joins it to the bridge.
func (l *Lab) plug(h *Host) error {
	if err := newNamespace(h.netns()); err != nil {
		return err
	}
	ns, err := netns.GetFromPath(h.netns())
	if err != nil {
		return err
	}
	defer ns.Close()
	err = withNetlink(l.fabric(), func(handle *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = h.Name, l.MTU
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
		if err := handle.LinkAdd(veth); err != nil {
			return fmt.Errorf("make the link to the underlay: %w", err)
		}
		bridge, err := handle.LinkByName("underlay")
		if err != nil {
			return err
		}
		if err := handle.LinkSetMaster(veth, bridge); err != nil {
			return err
		}
		return handle.LinkSetUp(veth)
	})
	if err != nil {
		return err
	}
	return errors.Join(h.In(unforwarding), withNetlink(h.netns(), h.address))
}

// unforwarding has a namespace forward nothing, as hosts do by default; a new one does what the machine's own does.
func unforwarding() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) }

// address gives a host its addresses and its ways out.
func (h *Host) address(handle *netlink.Handle) error {
	own, ways := []netip.Prefix{netip.PrefixFrom(h.Addr6, gateway6.Bits())}, []netip.Prefix{gateway6}
	if !h.lab.IPv6 {
		own, ways = append(own, netip.PrefixFrom(h.Addr, gateway.Bits())), append(ways, gateway)
	}
	if err := configure(handle, map[string][]netip.Prefix{"lo": nil, "eth0": own}); err != nil {
		return err
	}
	for _, via := range ways {
		if err := handle.RouteAdd(&netlink.Route{Gw: via.Addr().AsSlice()}); err != nil {
			return fmt.Errorf("default route via %s: %w", via.Addr(), err)
		}
	}
	return nil
}

// configure brings links up with addresses. IPv6 addresses are usable at once (nodad): there is
// nobody to collide with.
func configure(h *netlink.Handle, links map[string][]netip.Prefix) error {
	for name, prefixes := range links {
		link, err := h.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		for _, p := range prefixes {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
			if p.Addr().Is6() {
				addr.Flags = ifaNoDAD
			}
			if err := h.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("address %s on %s: %w", p, name, err)
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return nil
}

const ifaNoDAD = 0x02 // IFA_F_NODAD

func withNetlink(path string, f func(*netlink.Handle) error) error {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}

// Cut takes a host's link to the underlay down, or up again.
func (h *Host) Cut(down bool) error {
	return withNetlink(h.lab.fabric(), func(handle *netlink.Handle) error {
		link, err := handle.LinkByName(h.Name)
		if err != nil {
			return err
		}
		if down {
			return handle.LinkSetDown(link)
		}
		return handle.LinkSetUp(link)
	})
}

// logFile opens a daemon's log for appending.
func (h *Host) logFile(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(h.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}
