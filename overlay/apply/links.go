// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Spec is a task's link as it should be.
type Spec struct {
	Name      string // of the host end; see LinkName
	NetNS     string // path of the task's namespace
	Interface string // in there
	MAC       [6]byte
	Addr4     netip.Addr // at least one of the two
	Addr6     netip.Addr
	// Subnets are reached by the link when another one of the namespace has the default route.
	Subnets []netip.Prefix
	MTU     int // bytes
	// Published: ports of the node lead to the task, also from the node's loopback.
	Published bool
}

// minMTU is what IPv6 needs of a link (RFC 8200 section 5), bytes.
const minMTU = 1280

// Link is a task's link as it is.
type Link struct {
	Name    string
	Ifindex uint32 // of the host end
	Cookie  uint64 // of the task's namespace; known to Ensure only
	Up      bool   // the host end is up: packets pass
}

// Links makes and removes the veth pairs between node and tasks.
type Links struct {
	// Node4 and Node6 are what the node's own packets to its tasks come from; each may be invalid.
	Node4, Node6 netip.Addr
}

// Ensure makes the link and sets up the task's end of it. A new one's host end is left down, so that
// nothing passes before the programs are on it: see Up.
func (l Links) Ensure(ctx context.Context, s Spec) (made Link, err error) {
	if !ours(s.Name) {
		return Link{}, fmt.Errorf("link %q is not named as LinkName does", s.Name)
	}
	if s.MTU < minMTU || s.MTU > math.MaxUint16 {
		return Link{}, fmt.Errorf("link %s: MTU %d is out of range: allowed are %d to %d", s.Name, s.MTU, minMTU, math.MaxUint16)
	}
	ns, err := openNamespace(s.NetNS)
	if err != nil {
		return Link{}, fmt.Errorf("link %s: %w", s.Name, err)
	}
	defer func() { err = errors.Join(err, ns.close()) }()
	host, err := pair(s, ns)
	if err != nil {
		return Link{}, fmt.Errorf("link %s: %w", s.Name, err)
	}
	made = linkOf(host)
	err = ns.do(func() (err error) {
		if made.Cookie, err = cookie(); err != nil {
			return err
		}
		return setUpTaskEnd(s)
	})
	if err != nil {
		return Link{}, errors.Join(fmt.Errorf("link %s: interface %s of %s: %w", s.Name, s.Interface, s.NetNS, err),
			l.Remove(ctx, s.Name))
	}
	return made, nil
}

// pair returns the host end of a pair whose other end is in ns, making it where it is not.
func pair(s Spec, ns namespace) (netlink.Link, error) {
	host, err := linkByName(s.Name)
	if err != nil {
		return nil, err
	}
	if host != nil {
		if isPair(host, s, ns) {
			return host, nil
		}
		if err := netlink.LinkDel(host); err != nil {
			return nil, fmt.Errorf("remove what has its name: %w", err)
		}
	}
	gateway, err := net.ParseMAC(GatewayMAC)
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = s.Name, gateway, s.MTU
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: s.Interface, PeerHardwareAddr: s.MAC[:],
		PeerMTU: uint32(max(s.MTU, 0)), PeerNamespace: netlink.NsFd(ns.fd()),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("namespace %s has an interface %s already: %w", s.NetNS, s.Interface, err)
		}
		return nil, fmt.Errorf("make veth pair: %w", err)
	}
	host, err = linkByName(s.Name)
	if err == nil && host == nil {
		err = errors.New("it is gone again: did the task's namespace end?")
	}
	return host, err
}

// isPair reports whether host is the other end of the interface that s wants.
func isPair(host netlink.Link, s Spec, ns namespace) bool {
	same := false
	err := ns.do(func() error {
		peer, err := linkByName(s.Interface)
		same = peer != nil && peer.Attrs().Index == host.Attrs().ParentIndex && peer.Type() == "veth"
		return err
	})
	return err == nil && same && host.Type() == "veth"
}

// Up lets packets pass: host end up, routes and neighbours to the task's addresses. The neighbours are
// fixed, since only one can be there.
func (l Links) Up(_ context.Context, s Spec) error {
	host, err := linkByName(s.Name)
	if err != nil {
		return fmt.Errorf("link %s: %w", s.Name, err)
	}
	if host == nil {
		return fmt.Errorf("link %s: %w", s.Name, unix.ENODEV)
	}
	// Silent: no address of its own, no router solicitations, no multicast reports.
	keys := []string{"net/ipv6/conf/%s/addr_gen_mode=1", "net/ipv6/conf/%s/accept_ra=0"}
	if s.Published {
		// The kernel then routes from 127.0.0.1 into the link; that no task uses it is the packet path's.
		keys = append(keys, "net/ipv4/conf/%s/route_localnet=1")
	}
	for _, key := range keys {
		if err := quiet(fmt.Sprintf(key, s.Name)); err != nil {
			return fmt.Errorf("link %s: %w", s.Name, err)
		}
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return fmt.Errorf("set %s up: %w", s.Name, err)
	}
	for _, a := range []netip.Addr{s.Addr4, s.Addr6} {
		if !a.IsValid() {
			continue
		}
		if err := l.reach(host, a, s.MAC); err != nil {
			return fmt.Errorf("link %s: %w", s.Name, err)
		}
	}
	return nil
}

func (l Links) reach(host netlink.Link, a netip.Addr, mac [6]byte) error {
	family, from := netlink.FAMILY_V4, l.Node4
	if a.Is6() {
		family, from = netlink.FAMILY_V6, l.Node6
	}
	index := host.Attrs().Index
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: index, Family: family, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac[:],
	})
	if err != nil {
		return fmt.Errorf("set neighbour %s: %w", a, err)
	}
	route := &netlink.Route{LinkIndex: index, Dst: ipNet(single(a)), Scope: netlink.SCOPE_LINK}
	if from.IsValid() {
		route.Src = from.AsSlice()
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("set route to %s: %w", a, err)
	}
	return nil
}

// Remove removes a link with both its ends. One that is not there is no error.
func (Links) Remove(_ context.Context, name string) error {
	if !ours(name) {
		return fmt.Errorf("link %q is not a task's", name)
	}
	host, err := linkByName(name)
	if err != nil || host == nil {
		return err
	}
	if err := netlink.LinkDel(host); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// List returns the links of tasks that are there.
func (Links) List(context.Context) ([]Link, error) {
	all, err := allLinks()
	if err != nil {
		return nil, err
	}
	var links []Link
	for _, l := range all {
		if l.Type() == "veth" && ours(l.Attrs().Name) && l.Attrs().HardwareAddr.String() == GatewayMAC {
			links = append(links, linkOf(l))
		}
	}
	return links, nil
}

func linkOf(l netlink.Link) Link {
	a := l.Attrs()
	return Link{Name: a.Name, Ifindex: uint32(a.Index), Up: a.Flags&net.FlagUp != 0}
}

// Watch returns a channel that gets a value after links of tasks have gone: look at List then. It is
// of capacity one, so that a slow reader finds one value for all it missed, and is closed when ctx
// ends.
func (l Links) Watch(ctx context.Context) (<-chan struct{}, error) {
	updates, err := subscribe(ctx)
	if err != nil {
		return nil, err
	}
	gone := make(chan struct{}, 1)
	go func() {
		defer close(gone)
		for err == nil {
			for u := range updates {
				if u.Header.Type == unix.RTM_DELLINK && ours(u.Link.Attrs().Name) {
					tell(gone)
				}
			}
			// The watch ended with ctx, or because the kernel had more news than room for it: what was
			// lost is found by List.
			if ctx.Err() != nil {
				return
			}
			updates, err = subscribe(ctx)
			tell(gone)
		}
	}()
	return gone, nil
}

func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // there is one already
	}
}

func subscribe(ctx context.Context) (<-chan netlink.LinkUpdate, error) {
	updates := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	return updates, nil
}
