// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"weft/tests/bench/ends"
	"weft/tests/bench/report"
)

// bigPacket is how much TCP may send as one packet where links allow it (BIG TCP), bytes.
const bigPacket = 192 << 10

// wires are links between hosts other than the usual one.
var wires = []struct {
	name string
	make func(*options)
}{
	{"mtu_9000", func(o *options) { o.mtu = 9000 }},
	{"no_gso", func(o *options) { o.gso = false }},
	// VXLAN devices take no larger packets, so the others have nothing to be compared with.
	{"big_tcp", func(o *options) { o.big, o.among = bigPacket, raw+","+weft }},
}

// measureWires measures bulk and questions on each of the wires; there are no bars.
func measureWires(ctx context.Context, out io.Writer, o options) error {
	began, load := time.Now(), report.Load()
	var lines []report.Line
	for _, w := range wires {
		on := o
		on.only, on.among = "tcp_rr,tcp_bulk,tcp_bulk_two_cores,udp_gso", strings.Join([]string{raw, routed, docker, flannel, weft}, ",")
		w.make(&on)
		fmt.Fprintf(out, "%s\n", w.name)
		samples, err := converseAll(ctx, out, on)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		lines = append(lines, judge(samples, o.rounds, "_"+w.name)...)
	}
	if o.short {
		fmt.Fprintf(out, "bench-wires: %d lines, all of it carried\n", len(lines))
		return nil
	}
	table := report.Table(lines)
	if err := show(out, table); err != nil || o.results == "" {
		return err
	}
	err := report.ReplaceLines(filepath.Join(o.results, "overlay.jsonl"), lines)
	if o.page != "" {
		about := fmt.Sprintf("%s, %d rounds of %s each.", report.About(began, load), o.rounds, o.span)
		err = errors.Join(err, report.Show(o.page, "wires", about+"\n\n"+report.Markdown(table)))
	}
	return err
}

// enlarge lets packets of size bytes be sent and joined by every link on the pair's way.
func (p *pair) enlarge(a, b side, size int) error {
	for _, s := range []side{a, b} {
		if err := s.host.In(func() error { return enlarge(size) }); err != nil {
			return err
		}
	}
	for _, e := range []*endpoint{p.client, p.server} {
		if err := ends.Inside(e.Netns(), func() error { return enlarge(size) }); err != nil {
			return err
		}
	}
	return nil
}

// enlarge does that for the veth pairs of the calling thread's namespace.
func enlarge(size int) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		if l.Type() != "veth" {
			continue
		}
		for _, set := range []func(netlink.Link, int) error{
			netlink.LinkSetGSOMaxSize, netlink.LinkSetGROMaxSize, netlink.LinkSetGSOIPv4MaxSize, netlink.LinkSetGROIPv4MaxSize,
		} {
			if err := set(l, size); err != nil {
				errs = append(errs, fmt.Errorf("link %s for packets of %d bytes: %w", l.Attrs().Name, size, err))
			}
		}
	}
	return errors.Join(errs...)
}
