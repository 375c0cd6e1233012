// SPDX-License-Identifier: Apache-2.0

// Package apply carries rows' surroundings into the kernel: the links of tasks, and what the host
// needs once (tunnel device, addresses, forwarding, masquerading). It tries each thing once and says
// what happened; what is wanted, when, and trying again it leaves to the engine.
//
// Everything works on the network namespace of the calling thread, which is the node's.
package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TunnelDevice is the VXLAN device of the slow path.
const TunnelDevice = "weft-vx0"

// secondDevice is that of the second tunnel port; both begin with tunnelPrefix.
const (
	secondDevice = tunnelPrefix + "1"
	tunnelPrefix = "weft-vx"
)

// NodeDevice is the device by which the node's own packets leave for the networks and answers come back; nodePeer is
// the other end, which no packet reaches.
const (
	NodeDevice = "weft0"
	nodePeer   = "weft0-peer"
)

// linkPrefix begins the name of each task's host end; eight hex digits follow.
const linkPrefix = "weft"

// linkDigits are the hex digits of a host end's name.
const linkDigits = 8

// Where tasks send what is not for themselves: on every link, answered by the packet path.
const (
	Gateway4 = "169.254.1.1"
	Gateway6 = "fe80::1"
)

// GatewayMAC is the link address of every host end.
const GatewayMAC = "0a:77:65:66:74:01"

// Addresses of the node's name server, on its loopback.
const (
	NameServer4 = "198.51.100.1"
	NameServer6 = "fd01:d::c633:6401"
)

// NameServersDCOS are those that nodes of DC/OS answer at besides, see HostOptions.NameServers.
func NameServersDCOS() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, 2}), netip.AddrFrom4([4]byte{198, 51, 100, 3})}
}

// LinkName returns the name of the host end of an attachment's link.
func LinkName(attachment string) string {
	sum := sha256.Sum256([]byte(attachment))
	return linkPrefix + hex.EncodeToString(sum[:linkDigits/2])
}

// ours reports whether name is one that LinkName gives.
func ours(name string) bool {
	digits, found := strings.CutPrefix(name, linkPrefix)
	if !found || len(digits) != linkDigits {
		return false
	}
	_, err := hex.DecodeString(digits)
	return err == nil
}

// linkByName returns a link, nil when there is none.
func linkByName(name string) (netlink.Link, error) {
	links, err := retryDump(func() ([]netlink.Link, error) {
		l, err := netlink.LinkByName(name) //nolint:forbidigo // this is the retrying reader
		return []netlink.Link{l}, err
	})
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil //nolint:nilnil // none is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", name, err)
	}
	return links[0], nil
}

func allLinks() ([]netlink.Link, error) {
	links, err := retryDump(netlink.LinkList) //nolint:forbidigo // this is the retrying reader
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return links, nil
}

// ipNet returns a prefix, or an address as a prefix of its own, in the form netlink wants.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// addAddress adds an address to a link; one that is there is no error. An IPv6 address is not probed
// for duplicates: the packet path lets nobody else have it.
func addAddress(link netlink.Link, a netip.Addr, scope netlink.Scope) error {
	addr := &netlink.Addr{IPNet: ipNet(single(a)), Scope: int(scope)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("add %s to %s: %w", a, link.Attrs().Name, err)
	}
	return nil
}

// addrsOf returns the addresses of a link, or with nil of all.
func addrsOf(link netlink.Link) ([]netip.Addr, error) {
	list, err := retryDump(func() ([]netlink.Addr, error) {
		return netlink.AddrList(link, netlink.FAMILY_ALL) //nolint:forbidigo // this is the retrying reader
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var addrs []netip.Addr
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			addrs = append(addrs, ip.Unmap())
		}
	}
	return addrs, nil
}
