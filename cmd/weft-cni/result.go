// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	cni "github.com/containernetworking/cni/pkg/types/100"

	"weft/discovery"
	"weft/lb"
	"weft/overlay"
)

// What every task has: the ways out of its link and its name server (overlay/apply).
const (
	gateway4    = "169.254.1.1"
	gateway6    = "fe80::1"
	nameServer4 = "198.51.100.1"
	nameServer6 = "fd01:d::c633:6401"
)

// result is an endpoint in the words of CNI; reached is where its container gets by it.
func result(e overlay.Endpoint, reached []netip.Prefix) *cni.Result {
	r := &cni.Result{
		CNIVersion: cni.ImplementedSpecVersion,
		Interfaces: []*cni.Interface{
			{Name: e.HostInterface},
			{Name: e.Normal().Interface, Mac: e.MAC, Mtu: e.MTU, Sandbox: e.NetNS},
		},
		DNS: types.DNS{Search: []string{
			discovery.DefaultFramework + ".mesos",
			lb.DNSName(lb.DefaultFramework),
		}},
	}
	for _, a := range e.Addrs() {
		gateway, nameServer := gateway4, nameServer4
		if a.Is6() {
			gateway, nameServer = gateway6, nameServer6
		}
		r.IPs = append(r.IPs, &cni.IPConfig{
			Interface: new(1), Address: ipNet(netip.PrefixFrom(a, a.BitLen())), Gateway: net.ParseIP(gateway),
		})
		for _, p := range reached {
			if p.Addr().Is4() == a.Is4() {
				r.Routes = append(r.Routes, &types.Route{Dst: ipNet(p), GW: net.ParseIP(gateway)})
			}
		}
		r.DNS.Nameservers = append(r.DNS.Nameservers, nameServer)
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addressesOf returns the addresses that a result tells, IPv4 first.
func addressesOf(r types.Result) ([]netip.Addr, error) {
	if r == nil {
		return nil, errors.New("CHECK needs prevResult, the result of ADD")
	}
	told, err := cni.GetResult(r)
	if err != nil {
		return nil, fmt.Errorf("prevResult: %w", err)
	}
	var addrs []netip.Addr
	for _, ip := range told.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("prevResult: %v is no address", ip.Address.IP)
		}
		addrs = append(addrs, a.Unmap())
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs, nil
}
