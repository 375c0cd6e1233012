// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Part keeps two hosts from reaching each other, or lets them again: each drops what it has for the other. What
// they have for third hosts goes on.
func (h *Host) Part(from *Host, apart bool) error {
	return errors.Join(h.refuse(from, apart), from.refuse(h, apart))
}

func (h *Host) refuse(other *Host, on bool) error {
	return withNetlink(h.netns(), func(handle *netlink.Handle) error {
		var errs []error
		for _, a := range []netip.Addr{other.Addr, other.Addr6} {
			route := &netlink.Route{Dst: hostNet(a), Type: unix.RTN_BLACKHOLE}
			if on {
				errs = append(errs, handle.RouteReplace(route))
			} else if err := handle.RouteDel(route); !errors.Is(err, unix.ESRCH) {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("part %s from %s: %w", h.Name, other.Name, err)
		}
		return nil
	})
}

func hostNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// AddAddress gives the host another underlay address, and tells the kernel to begin nothing new from the one
// before: how an operator moves a host. From here on Addr is the new one. With Addr itself it gives back what
// RemoveAddress took.
func (h *Host) AddAddress(a netip.Addr) error {
	// Else the first address would take the second with it when it goes (Linux' ip-sysctl: promote_secondaries).
	err := h.In(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/promote_secondaries", []byte("1"), 0) })
	if err != nil {
		return err
	}
	return h.onUnderlay(func(handle *netlink.Handle, link netlink.Link) error {
		old := &netlink.Addr{IPNet: inUnderlay(h.Addr), ValidLft: int(^uint32(0) >> 1), Flags: unix.IFA_F_DEPRECATED}
		if err := handle.AddrAdd(link, &netlink.Addr{IPNet: inUnderlay(a)}); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, h.Name, err)
		}
		if a == h.Addr { // it was removed
			return nil
		}
		if err := handle.AddrReplace(link, old); err != nil {
			return fmt.Errorf("deprecate %s of %s: %w", h.Addr, h.Name, err)
		}
		h.Addr = a
		return nil
	})
}

// Readdress replaces the host's underlay address at once, as a lease that changes does.
func (h *Host) Readdress(a netip.Addr) error {
	if err := h.RemoveAddress(h.Addr); err != nil {
		return err
	}
	h.Addr = a
	return errors.Join(h.AddAddress(a), withNetlink(h.netns(), func(handle *netlink.Handle) error {
		return handle.RouteAdd(&netlink.Route{Gw: gateway.Addr().AsSlice()}) // it went with the address
	}))
}

// RemoveAddress takes an underlay address away.
func (h *Host) RemoveAddress(a netip.Addr) error {
	return h.onUnderlay(func(handle *netlink.Handle, link netlink.Link) error {
		if err := handle.AddrDel(link, &netlink.Addr{IPNet: inUnderlay(a)}); err != nil {
			return fmt.Errorf("remove %s of %s: %w", a, h.Name, err)
		}
		return nil
	})
}

func (h *Host) onUnderlay(f func(*netlink.Handle, netlink.Link) error) error {
	return withNetlink(h.netns(), func(handle *netlink.Handle) error {
		link, err := handle.LinkByName("eth0")
		if err != nil {
			return err
		}
		return f(handle, link)
	})
}

func inUnderlay(a netip.Addr) *net.IPNet {
	bits := gateway.Bits()
	if a.Is6() {
		bits = gateway6.Bits()
	}
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

// Pins is the host's folder of bpffs.
func (h *Host) Pins() string { return filepath.Join(h.lab.Dir, "bpf", h.Name) }

// WipePins removes all that the host's daemon pinned, as somebody does who cleans up too well.
func (h *Host) WipePins() error {
	layouts, err := os.ReadDir(h.Pins())
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range layouts {
		errs = append(errs, os.RemoveAll(filepath.Join(h.Pins(), l.Name())))
	}
	return errors.Join(errs...)
}

// CountPins counts the files of bpffs that are the host's.
func (h *Host) CountPins() int {
	n := 0
	_ = filepath.WalkDir(h.Pins(), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil // what vanishes meanwhile does not count
	})
	return n
}

// Narrow makes what reaches a host by the underlay's bridge that small, bytes: larger packets are lost and
// nobody says so.
func (h *Host) Narrow(mtu int) error {
	return withNetlink(h.lab.fabric(), func(handle *netlink.Handle) error {
		link, err := handle.LinkByName(h.Name)
		if err != nil {
			return err
		}
		return handle.LinkSetMTU(link, mtu)
	})
}

// Strand takes the host's way to an address: what it sends there ends in itself.
func (h *Host) Strand(from netip.Addr) error {
	route := &netlink.Route{Dst: &net.IPNet{IP: from.AsSlice(), Mask: net.CIDRMask(from.BitLen(), from.BitLen())}, Type: unix.RTN_BLACKHOLE}
	return withNetlink(h.netns(), func(handle *netlink.Handle) error { return handle.RouteReplace(route) })
}

// Eat loses what is sent between hosts to a UDP port, as a firewall on the way does, and nobody says so; or lets it
// pass again.
func (l *Lab) Eat(port uint16, on bool) error {
	return inside(l.fabric(), func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := conn.AddTable(&nftables.Table{Name: "eat", Family: nftables.TableFamilyBridge})
		conn.FlushTable(table)
		if !on {
			conn.DelTable(table)
			return conn.Flush()
		}
		chain := conn.AddChain(&nftables.Chain{
			Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
		return conn.Flush()
	})
}
