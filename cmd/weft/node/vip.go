// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cmd/weft/show"
	"weft/lb"
)

func (c *client) vip(more []*cobra.Command) *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "list VIPs", Example: "  weft vip list\n  weft vip list --network prod -o json", Args: show.Args(0, 0)}
	output, network := show.Output(list), list.Flags().String("network", "", "only VIPs of this network")
	c.command(list, func(ctx context.Context, d *Daemon, _ []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		vips, err := d.LB.VIPs(ctx, *network)
		if err != nil {
			return err
		}
		published, err := d.Published.Published(ctx, false)
		if err != nil {
			return err
		}
		all := withPublications(vips, published)
		return show.Value(c.env.Stdout, *output, all, func(w io.Writer) { vipTable(w, all) })
	})
	one := &cobra.Command{
		Use: "show NAME", Short: "show the backends of a VIP, each with the reason why it is in or out, what this node's connections came to, and where it is published",
		Long: "Show tells of each backend why it is in or out for the cluster, and what this node's connections to it came to. Where\n" +
			"clients outside reach the VIP, it tells at which address, how answers get back, and which nodes of the edge live:\n" +
			"\"late\" is one whose tables don't have what the masters said last.",
		Example: "  weft vip show web.weft\n  weft vip show web", Args: show.Args(1, 1),
	}
	oneOutput := show.Output(one)
	c.command(one, func(ctx context.Context, d *Daemon, args []string) error {
		found, err := findPublished(ctx, d, args[0])
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *oneOutput, found, func(w io.Writer) {
			backendTable(w, found)
			publicationTable(w, found)
		})
	})
	return show.Noun("vip", "VIPs and their backends, as this node sees them", "  weft vip list\n  weft vip show web",
		append([]*cobra.Command{list, one, c.vipTop(), c.vipAddress()}, more...)...)
}

// vip is a VIP with where clients outside reach it.
type vip struct {
	lb.VIPStatus
	Publications []lb.PublicationStatus `json:"publications,omitempty"`
}

// withPublications puts each publication to its VIP.
func withPublications(vips []lb.VIPStatus, published []lb.PublicationStatus) []vip {
	at := make(map[lb.Key][]lb.PublicationStatus)
	for _, p := range published {
		at[p.VIP] = append(at[p.VIP], p)
	}
	all := make([]vip, len(vips))
	for i, v := range vips {
		all[i] = vip{v, at[v.Key]}
	}
	return all
}

// findPublished is findVIPs with publications; one whose VIP has no backend is of a VIP without any.
func findPublished(ctx context.Context, d *Daemon, name string) ([]vip, error) {
	vips, err := findVIPs(ctx, d, name)
	missing := err
	if err != nil && !errors.Is(err, lb.ErrNotFound) {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	published, err := d.Published.Published(ctx, true)
	if err != nil {
		return nil, err
	}
	for _, p := range published {
		alone := lb.VIPStatus{Key: p.VIP, Backends: []lb.BackendStatus{}}
		if p.VIP.Name != "" {
			alone.DNS = lb.DNSName(p.VIP.Name)
		}
		if meant(alone, name) && !slices.ContainsFunc(vips, func(v lb.VIPStatus) bool { return v.Key == p.VIP }) {
			vips = append(vips, alone)
		}
	}
	if len(vips) == 0 {
		return nil, missing
	}
	return withPublications(vips, published), nil
}

// meant tells whether a name means a VIP: web, web.weft, the whole DNS name, or an address.
func meant(v lb.VIPStatus, name string) bool {
	return name == "" || v.Name == name || strings.HasPrefix(v.Name, name+".") || v.DNS == name || v.Addr.IsValid() && v.Addr.String() == name
}

// findVIPs returns the VIPs that a name means.
func findVIPs(ctx context.Context, d *Daemon, name string) ([]lb.VIPStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	vips, err := d.LB.VIPs(ctx, "")
	if err != nil {
		return nil, err
	}
	var found []lb.VIPStatus
	for _, v := range vips {
		if meant(v, name) {
			found = append(found, v)
		}
	}
	if len(found) == 0 && name != "" {
		return nil, fmt.Errorf("no VIP %q: %w: `weft vip list` shows them", name, lb.ErrNotFound)
	}
	return found, nil
}

// vipName is a VIP as its label reads: web.weft:80/tcp.
func vipName(v lb.VIPStatus) string {
	name := v.Name
	if name == "" {
		name = v.Addr.String()
	}
	return fmt.Sprintf("%s:%d/%s", name, v.Port, v.Protocol)
}

func vipTable(w io.Writer, vips []vip) {
	show.Row(w, "VIP", "NETWORK", "ADDRESSES", "BACKENDS", "POLICY", "PUBLISHED", "NAME")
	for _, v := range vips {
		in := 0
		for _, b := range v.Backends {
			if b.In {
				in++
			}
		}
		var at []netip.AddrPort // the protocol is the VIP's
		for _, p := range v.Publications {
			at = append(at, netip.AddrPortFrom(p.Addr, p.Port))
		}
		policy := cmp.Or(v.Policy, lb.LeastLatency)
		show.Row(w, vipName(v.VIPStatus), v.Network, show.List(v.Addrs), fmt.Sprintf("%d of %d", in, len(v.Backends)), policy, show.List(at), v.DNS)
	}
}

func backendTable(w io.Writer, vips []vip) {
	show.Row(w, "VIP", "NETWORK", "TASK", "NODE", "ADDRESS", "PORT", "WEIGHT", "IN", "EJECTED", "GIVEN", "OPEN", "FAILED", "LATENCY", "REASON")
	for _, v := range vips {
		for _, b := range v.Backends {
			t := b.Traffic
			show.Row(w, vipName(v.VIPStatus), v.Network, b.Task, b.Node, show.List(b.Addrs), b.Port, b.Weight, b.In, b.Ejected,
				t.Chosen, t.InFlight, failed(t), t.Latency.Round(time.Microsecond), b.Reason)
		}
	}
}

// publicationTable says nothing of VIPs that are not published.
func publicationTable(w io.Writer, vips []vip) {
	headed := false
	for _, v := range vips {
		for _, p := range v.Publications {
			if !headed {
				headed = true
				fmt.Fprintln(w)
				show.Row(w, "PUBLICATION", "VIP", "NETWORK", "RETURN", "EDGES")
			}
			var edges []string
			for _, e := range p.Edges {
				text := string(e.Node)
				if !e.Applied {
					text += " (late)"
				}
				edges = append(edges, text)
			}
			show.Row(w, p.Name(), vipName(v.VIPStatus), v.Network, p.Return, show.List(edges))
		}
	}
}

func failed(t lb.Traffic) uint64 { return t.Refused + t.Timeouts + t.Resets }

func (c *client) vipTop() *cobra.Command {
	cmd := &cobra.Command{
		Use: "top [NAME]", Short: "show what this node's connections to backends come to, again and again",
		Long: "Top shows each second, for each backend that this node's tasks use: its share of the VIP's connections in\n" +
			"that second, how many it was given a second, how many are open, failures and ejections so far, and latency.",
		Example: "  weft vip top\n  weft vip top web --count 1", Args: show.Args(0, 1),
	}
	every := cmd.Flags().Duration("every", time.Second, "time between two tables")
	count := cmd.Flags().Int("count", 0, "tables to show (default: until interrupted)")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		name := ""
		if len(args) > 0 {
			name = args[0]
		}
		if *every < 100*time.Millisecond {
			return fmt.Errorf("%w: every is %s: 100ms and more are allowed", show.ErrUsage, *every)
		}
		if *count < 0 {
			return fmt.Errorf("%w: count is %d: 1 and more are allowed, or 0 for no end", show.ErrUsage, *count)
		}
		before, err := findVIPs(ctx, d, name)
		if err != nil {
			return err
		}
		for shown := 0; *count == 0 || shown < *count; shown++ {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(*every):
			}
			now, err := findVIPs(ctx, d, name)
			if err != nil {
				return err
			}
			if err := show.Value(c.env.Stdout, "table", now, func(w io.Writer) { topTable(w, before, now, *every) }); err != nil {
				return err
			}
			before = now
		}
		return nil
	})
}

// topTable compares two moments.
func topTable(w io.Writer, before, now []lb.VIPStatus, span time.Duration) {
	type place struct {
		vip  lb.Key
		task string
	}
	had := make(map[place]uint64)
	for _, v := range before {
		for _, b := range v.Backends {
			had[place{v.Key, b.Task}] = b.Traffic.Chosen
		}
	}
	show.Row(w, "VIP", "TASK", "NODE", "SHARE", "GIVEN/S", "OPEN", "FAILED", "EJECTIONS", "LATENCY", "REASON")
	for _, v := range now {
		given, all := make([]uint64, len(v.Backends)), uint64(0)
		for i, b := range v.Backends {
			given[i] = b.Traffic.Chosen - min(b.Traffic.Chosen, had[place{v.Key, b.Task}])
			all += given[i]
		}
		for i, b := range v.Backends {
			t := b.Traffic
			if t.Chosen == 0 {
				continue
			}
			show.Row(w, vipName(v), b.Task, b.Node, fmt.Sprintf("%d%%", 100*given[i]/max(1, all)),
				fmt.Sprintf("%.0f", float64(given[i])/span.Seconds()), t.InFlight, failed(t), t.Ejections,
				t.Latency.Round(time.Microsecond), b.Reason)
		}
	}
}

// vipAddress needs no daemon: a name's addresses are made from the name.
func (c *client) vipAddress() *cobra.Command {
	cmd := &cobra.Command{
		Use: "address LABEL.FRAMEWORK", Short: "print the addresses that a named VIP has, or would get, without asking a cluster",
		Long: "Address prints the IPv4 and the IPv6 address that the name of a VIP hashes to, as in DC/OS. Where two names of a\n" +
			"cluster collide the masters give the later one the next address up: `weft vip list` shows what they decided.",
		Example: "  weft vip address web.weft\n  weft vip address l4lbtest.marathon -o json", Args: show.Args(1, 1),
	}
	output := show.Output(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		dot := strings.LastIndexByte(args[0], '.')
		if dot < 0 {
			return fmt.Errorf("%w: name is %q: LABEL.FRAMEWORK is allowed, such as web.weft", show.ErrUsage, args[0])
		}
		name, err := lb.Mangle(args[0][:dot], args[0][dot+1:])
		if err != nil {
			return fmt.Errorf("%w: %w", show.ErrUsage, err)
		}
		pin, err := lb.Assign(nil, name)
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, pin, func(w io.Writer) {
			show.Row(w, "NAME", "IPV4", "IPV6")
			show.Row(w, lb.DNSName(pin.Name), pin.Addr4, pin.Addr6)
		})
	}
	return cmd
}
