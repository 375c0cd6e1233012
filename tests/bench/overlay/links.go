// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/tests/lab"
)

// wire joins two hosts by a link of their own, and lets the lab's bridge find their addresses on it:
// daemons gossip from them.
func (t *topology) wire(a, b side) error {
	err := a.host.In(func() error {
		peer, err := os.Open(namespaceOf(b.host))
		if err != nil {
			return err
		}
		defer peer.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = "wire0", t.o.mtu
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "wire0", PeerMTU: uint32(t.o.mtu), PeerNamespace: netlink.NsFd(int(peer.Fd())),
		})
	})
	if err != nil {
		return fmt.Errorf("make the link of pair %d: %w", a.n, err)
	}
	for _, s := range []side{a, b} {
		err := s.host.In(func() error {
			if err := configure("wire0", s.wire(), s.wire6()); err != nil || t.o.gso {
				return err
			}
			return plain("wire0")
		})
		if err != nil {
			return fmt.Errorf("link of %s: %w", s.host.Name, err)
		}
	}
	return t.lab.InWorld(func() error {
		if err := sysctl("net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
		return errors.Join(route(single(a.wire().Addr()), a.host.Addr, ""), route(single(b.wire().Addr()), b.host.Addr, ""))
	})
}

func namespaceOf(h *lab.Host) string { return filepath.Join(h.Dir, "netns") }

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// configure brings a link up with addresses, in the calling thread's namespace.
func configure(name string, addrs ...netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	for _, p := range addrs {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// route leads dst to via; dev, where it is named, reaches via without a route of its own.
func route(dst netip.Prefix, via netip.Addr, dev string) error {
	r := &netlink.Route{Dst: ipNet(dst), Gw: via.AsSlice()}
	if dev != "" {
		link, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		r.LinkIndex, r.Flags = link.Attrs().Index, int(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("route %s via %s: %w", dst, via, err)
	}
	return nil
}

// forward makes the calling thread's namespace a router.
func forward() error {
	return errors.Join(sysctl("net/ipv4/ip_forward", "1"), sysctl("net/ipv6/conf/all/forwarding", "1"))
}

func sysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
}

// joining are the features that make or take packets larger than the link.
var joining = []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO}

// plain switches off what joins packets, as on a link without any help by hardware.
func plain(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, f := range joining {
		if err := setFeature(fd, name, f); err != nil {
			return fmt.Errorf("switch off feature %#x of %s: %w", f, name, err)
		}
	}
	return nil
}
