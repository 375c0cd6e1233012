// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our place among the filters of a link: behind priorities that people choose by hand (1 and the
// like), and before 49152, where the kernel puts filters without one.
const (
	classicPriority = 0x5745
	classicHandle   = 1
)

// Classic attaches the kernel half's programs as clsact filters with direct action: what stands in for
// tcx before Linux 6.6. It works on the links of the calling thread's network namespace. A filter goes
// with its device, so that nothing has to be swept.
type Classic struct{}

// Attach makes the program behind fd the filter called name on one direction of a link. An earlier
// filter of ours there is replaced in one step: no packet passes without one.
func (Classic) Attach(ifindex uint32, egress bool, name string, fd int) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(ifindex), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to interface %d: %w", ifindex, err)
	}
	filter := classicFilter(ifindex, egress)
	filter.Name, filter.Fd, filter.DirectAction = name, fd, true
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("set filter %s of interface %d: %w", name, ifindex, err)
	}
	return nil
}

// Detach removes the filter called name. What is not there is no error.
func (Classic) Detach(ifindex uint32, egress bool, name string) error {
	filters, err := filtersOf(ifindex, egress)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if f.Name == name {
			return removeFilter(ifindex, egress, name)
		}
	}
	return nil
}

// Remove takes every filter whose name begins with prefix off every link. The clsact itself stays:
// others may have filters on it.
func (c Classic) Remove(prefix string) error {
	links, err := retryDump(netlink.LinkList) //nolint:forbidigo // this is the retrying reader
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, link := range links {
		index := uint32(link.Attrs().Index)
		for _, egress := range []bool{false, true} {
			filters, err := filtersOf(index, egress)
			errs = append(errs, err)
			for _, f := range filters {
				if strings.HasPrefix(f.Name, prefix) {
					errs = append(errs, removeFilter(index, egress, f.Name))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func classicFilter(ifindex uint32, egress bool) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if egress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: int(ifindex), Parent: parent, Handle: classicHandle, Priority: classicPriority,
		Protocol: unix.ETH_P_ALL,
	}}
}

// filtersOf lists our filters on one direction of a link; none where there is no clsact or no link.
func filtersOf(ifindex uint32, egress bool) ([]*netlink.BpfFilter, error) {
	want := classicFilter(ifindex, egress)
	link := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: int(ifindex)}}
	all, err := retryDump(func() ([]netlink.Filter, error) {
		return netlink.FilterList(link, want.Parent) //nolint:forbidigo // this is the retrying reader
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list filters of interface %d: %w", ifindex, err)
	}
	var ours []*netlink.BpfFilter
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Priority == want.Priority && b.Handle == want.Handle {
			ours = append(ours, b)
		}
	}
	return ours, nil
}

func removeFilter(ifindex uint32, egress bool, name string) error {
	err := netlink.FilterDel(classicFilter(ifindex, egress))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove filter %s of interface %d: %w", name, ifindex, err)
	}
	return nil
}
