// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"weft/overlay/compile"
)

// nodeProtocol marks our routes (rtnetlink(7)): administrators' numbers are free for all, and this one is nobody's
// that is listed.
const nodeProtocol = 119

// EnsureNode makes the node's own device and returns it with the cookie of this namespace. It is a veth pair, as tasks'
// links are, with both ends here: what is sent there is taken by the packet path, what comes enters by it.
func (h *Host) EnsureNode(context.Context) (host compile.Host, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if host.Ifindex, err = h.ensureNode(); err != nil {
		return host, fmt.Errorf("host: device %s: %w", NodeDevice, err)
	}
	if host.Cookie, err = cookie(); err != nil {
		return host, fmt.Errorf("host: %w", err)
	}
	return host, nil
}

func (h *Host) ensureNode() (uint32, error) {
	have, err := linkByName(NodeDevice)
	if err != nil {
		return 0, err
	}
	if mac := compile.HostMAC(); have != nil && (have.Type() != "veth" || !bytes.Equal(have.Attrs().HardwareAddr, mac[:])) {
		if err := netlink.LinkDel(have); err != nil {
			return 0, fmt.Errorf("remove what has its name: %w", err)
		}
		have = nil
	}
	if have == nil {
		if have, err = makeNode(); err != nil {
			return 0, err
		}
	}
	mtu := h.o.Underlay.MTU - h.o.Underlay.Overhead()
	if mtu > 0 && have.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(have, mtu); err != nil {
			return 0, fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	return uint32(have.Attrs().Index), silence(have)
}

func makeNode() (netlink.Link, error) {
	mac := compile.HostMAC()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = NodeDevice, mac[:]
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nodePeer}); err != nil {
		return nil, fmt.Errorf("make veth pair: %w", err)
	}
	made, err := linkByName(NodeDevice)
	if made == nil {
		err = errors.Join(err, unix.ENODEV)
	}
	return made, err
}

// silence sets the pair up.
func silence(node netlink.Link) error {
	// Silent, as the links of tasks, and without neighbours: whoever is sent to is found by the packet path.
	for _, key := range []string{NodeDevice + "/addr_gen_mode=1", NodeDevice + "/accept_ra=0", nodePeer + "/disable_ipv6=1"} {
		if err := quiet("net/ipv6/conf/" + key); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetARPOff(node); err != nil {
		return fmt.Errorf("set ARP off: %w", err)
	}
	peer, err := linkByName(nodePeer)
	if err != nil || peer == nil {
		return errors.Join(err, fmt.Errorf("%s: %w", nodePeer, unix.ENODEV))
	}
	for _, end := range []netlink.Link{peer, node} {
		if err := netlink.LinkSetUp(end); err != nil {
			return fmt.Errorf("set up: %w", err)
		}
	}
	return nil
}

// SetNode gives the node's device exactly these addresses, and leads the networks' subnets to it. Tasks of the node
// have routes of their own, which are longer.
func (h *Host) SetNode(_ context.Context, addrs, subnets []netip.Prefix) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	link, err := linkByName(NodeDevice)
	if err != nil || link == nil {
		return errors.Join(err, fmt.Errorf("host: device %s: %w", NodeDevice, unix.ENODEV))
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		err := setNodeFamily(link, family, addrs, subnets)
		if family == netlink.FAMILY_V6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EACCES)) {
			continue // IPv6 is not built, or switched off here
		}
		if err != nil {
			return fmt.Errorf("host: device %s: %w", NodeDevice, err)
		}
	}
	return nil
}

func setNodeFamily(link netlink.Link, family int, addrs, subnets []netip.Prefix) error {
	others := func(p netip.Prefix) bool { return p.Addr().Is4() != (family == netlink.FAMILY_V4) }
	addrs, subnets = slices.DeleteFunc(slices.Clone(addrs), others), slices.DeleteFunc(slices.Clone(subnets), others)
	if len(addrs) == 0 {
		subnets = nil // answers would find no way back
	}
	if err := setNodeAddrs(link, family, addrs); err != nil {
		return err
	}
	have, err := nodeRoutes(link, family)
	if err != nil {
		return err
	}
	for _, subnet := range subnets {
		if old, there := have[subnet.Masked()]; there && old.Src.Equal(addrs[0].Addr().AsSlice()) {
			delete(have, subnet.Masked())
			continue
		}
		delete(have, subnet.Masked())
		route := &netlink.Route{
			LinkIndex: link.Attrs().Index, Dst: ipNet(subnet.Masked()), Scope: netlink.SCOPE_LINK, Src: addrs[0].Addr().AsSlice(),
			Protocol: nodeProtocol,
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("set route to %s: %w", subnet, err)
		}
	}
	for subnet, route := range have {
		if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s: %w", subnet, err)
		}
	}
	return nil
}

// setNodeAddrs leaves no other address on the link. Their lengths lead what else is of the nodes' subnet here, where it
// is dropped with a reason.
func setNodeAddrs(link netlink.Link, family int, addrs []netip.Prefix) error {
	list, err := retryDump(func() ([]netlink.Addr, error) {
		return netlink.AddrList(link, family) //nolint:forbidigo // this is the retrying reader
	})
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range list {
		ip, _ := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		if !slices.Contains(addrs, netip.PrefixFrom(ip.Unmap(), ones)) && !ip.IsLinkLocalUnicast() {
			if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("remove %s: %w", a.IPNet, err)
			}
		}
	}
	for _, p := range addrs {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add %s: %w", p, err)
		}
	}
	return nil
}

// nodeRoutes returns our routes to the link.
func nodeRoutes(link netlink.Link, family int) (map[netip.Prefix]netlink.Route, error) {
	all, err := routesOf(family)
	if err != nil {
		return nil, err
	}
	have := make(map[netip.Prefix]netlink.Route)
	for _, r := range all {
		if r.LinkIndex != link.Attrs().Index || r.Protocol != nodeProtocol || r.Dst == nil {
			continue
		}
		ip, _ := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		have[netip.PrefixFrom(ip.Unmap(), ones)] = r
	}
	return have, nil
}
