// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"weft/cmd/weft/show"
	"weft/discovery"
	"weft/discovery/dns"
	"weft/discovery/dnsname"
)

// Where a node answers.
const (
	askAt  = nameServer4 + ":53"
	askAt6 = "[" + nameServer6 + "]:53"
)

func (c *client) dns() *cobra.Command {
	return show.Noun("dns", "ask this node for a name, and why it answers so", "  weft dns query web.weft.mesos\n  weft dns explain web.weft.mesos",
		c.dnsQuery(), c.dnsExplain())
}

func (c *client) dnsQuery() *cobra.Command {
	cmd := &cobra.Command{
		Use: "query NAME [TYPE]", Short: "ask a question as a task's resolver does",
		Long: "Query asks over UDP, and over TCP when the answer is too long for that. It needs no daemon: the kernel may\n" +
			"answer. The view is that of whoever runs the command: the host's, or a task's inside of one.",
		Example: "  weft dns query web.weft.mesos\n  weft dns query _web._tcp.weft.mesos SRV\n  weft dns query 9.1.0.2 PTR",
		Args:    show.Args(1, 2),
	}
	output, server := show.Output(cmd), cmd.Flags().String("server", askAt, "address:port to ask, where IPv4 goes nowhere "+askAt6)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := netip.ParseAddrPort(*server)
		if err != nil {
			return fmt.Errorf("%w: server is %q: address:port is allowed, for example %s", show.ErrUsage, *server, askAt)
		}
		name, qtype := args[0], "A"
		if len(args) == 2 {
			qtype = args[1]
		}
		if addr, err := netip.ParseAddr(name); err == nil {
			name = dns.ReverseName(addr)
			if len(args) < 2 {
				qtype = "PTR"
			}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
		defer cancel()
		reply, err := dns.Ask(ctx, at, name, qtype)
		if !cmd.Flags().Changed("server") && errors.Is(err, unix.ENETUNREACH) { // in a task of IPv6 alone
			reply, err = dns.Ask(ctx, netip.MustParseAddrPort(askAt6), name, qtype)
		}
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, reply, func(w io.Writer) { printReply(w, reply) })
	}
	return cmd
}

func printReply(w io.Writer, r dns.Reply) {
	how := "UDP"
	if r.TCP {
		how = "TCP"
	}
	fmt.Fprintf(w, "%s (%s) from %s over %s in %s\n", r.Status, strings.Join(r.Flags, " "), r.Server, how, r.Took.Round(time.Microsecond))
	for _, section := range []struct {
		name  string
		lines []string
	}{{"answer", r.Answer}, {"authority", r.Authority}, {"additional", r.Additional}, {"remark", r.Remarks}} {
		for _, line := range section.lines {
			fmt.Fprintf(w, "%s\t%s\n", section.name, line)
		}
	}
}

// explained is a record with the fact behind it.
type explained struct {
	discovery.Record
	Why         string `json:"why"`
	Incarnation uint64 `json:"incarnation,omitempty"`
	Seq         uint64 `json:"seq,omitempty"`
	WriterAlive *bool  `json:"writer_alive,omitempty"`
}

func (c *client) dnsExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain NAME", Short: "tell which facts a name is made of, who wrote them, and why they give this name",
		Example: "  weft dns explain web.weft.mesos\n  weft dns explain web.weft.l4lb.thisdcos.directory --network prod",
		Args:    show.Args(1, 1),
	}
	output, network := show.Output(cmd), cmd.Flags().String("network", "", "as tasks of this network see it (default: the host)")
	return c.command(cmd, func(ctx context.Context, d *Daemon, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		name := strings.ToLower(strings.TrimSuffix(args[0], ".")) + "."
		if addr, err := netip.ParseAddr(args[0]); err == nil {
			name = dns.ReverseName(addr)
		}
		list, err := explain(ctx, d.Discovery, *network, name)
		if err != nil {
			return err
		}
		return show.Value(c.env.Stdout, *output, list, func(w io.Writer) {
			show.Row(w, "RECORD", "WHY", "ROW", "WRITER", "ORDER")
			for _, e := range list {
				writer := e.Writer
				if e.WriterAlive != nil && !*e.WriterAlive {
					writer += " (does not answer)"
				}
				show.Row(w, fmt.Sprintf("%s %d %s", e.Type, e.TTL/time.Second, e.Data), e.Why, e.From, writer, fmt.Sprintf("%d/%d", e.Incarnation, e.Seq))
			}
		})
	})
}

// explain looks a name up and finds the rows behind its records.
func explain(ctx context.Context, s discovery.Service, network, name string) ([]explained, error) {
	records, err := s.Lookup(ctx, network, name)
	if errors.Is(err, discovery.ErrNotFound) && network != "" {
		if _, seen := s.Lookup(ctx, "", name); seen == nil {
			return nil, fmt.Errorf("%w for tasks of %s: only other networks see it (weft dns explain %s shows it to the host)", err, network, name)
		}
	}
	if errors.Is(err, discovery.ErrNotFound) {
		return nil, errors.Join(err, whyMissing(ctx, s, name))
	}
	if err != nil {
		return nil, err
	}
	nodes, err := s.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	alive := map[string]bool{discovery.Ledger: true}
	for _, n := range nodes {
		alive[string(n.ID)] = n.Alive
	}
	rows := map[string]discovery.Row{}
	var list []explained
	for _, r := range records {
		kind, _, _ := strings.Cut(r.From, "/")
		if _, asked := rows[kind]; !asked {
			rows[kind] = discovery.Row{}
			all, err := s.Rows(ctx, discovery.Kind(kind))
			if err != nil {
				return nil, err
			}
			for _, row := range all {
				rows[string(row.Kind)+"/"+row.Key+" "+row.Writer] = row
			}
		}
		row := rows[r.From+" "+r.Writer]
		e := explained{Record: r, Why: why(r) + leftOut(r) + former(r, name), Incarnation: row.Incarnation, Seq: row.Seq}
		if a, known := alive[r.Writer]; known {
			e.WriterAlive = &a
		}
		list = append(list, e)
	}
	return list, nil
}

// whyMissing tells which tasks would have the name, were their nodes not silent.
func whyMissing(ctx context.Context, s discovery.Service, name string) error {
	rows, err := s.Rows(ctx, discovery.KindName)
	if err != nil {
		return err
	}
	nodes, err := s.Nodes(ctx)
	if err != nil {
		return err
	}
	var reasons []error
	for _, row := range rows {
		var n discovery.Name
		if row.Deleted || json.Unmarshal(row.Value, &n) != nil || !slices.ContainsFunc(strings.Split(name, "."), func(label string) bool {
			return strings.TrimPrefix(label, "_") == dnsname.Label(n.Label)
		}) {
			continue
		}
		i := slices.IndexFunc(nodes, func(s discovery.NodeStatus) bool { return string(s.ID) == row.Writer })
		if i >= 0 && !nodes[i].Alive {
			reasons = append(reasons, fmt.Errorf("task %s of that name is on %s, which does not answer since %s", n.Task, row.Writer, nodes[i].Since.Format(time.RFC3339)))
		}
	}
	return errors.Join(reasons...)
}

// former tells that a name was asked for by what its zone was called before.
func former(r discovery.Record, asked string) string {
	if r.Name == asked {
		return ""
	}
	return "; now called " + r.Name
}

// leftOut tells of a record that no answer has, and why.
func leftOut(r discovery.Record) string {
	if !r.LeftOut {
		return ""
	}
	return "; left out: the task is not well, and another of that name is"
}

// why tells by which rule a fact gives a record its name.
func why(r discovery.Record) string {
	kind, key, _ := strings.Cut(r.From, "/")
	if _, task, ok := strings.Cut(key, "/"); ok && kind == string(discovery.KindName) {
		key = task // the rest is the row's topic
	}
	is := func(part string) bool { return strings.Contains(r.Name, part) }
	switch {
	case r.From == "zone/masters":
		return "a master, in the order of their ids; with fewer masters than names again from the first"
	case r.Type == "SOA" || r.Type == "NS" || kind == "zone":
		return "the zone itself"
	case kind == "static":
		return "configuration of this node"
	case r.Type == "PTR":
		return "reverse name of an address of " + kind + " " + key
	case kind == string(discovery.KindPin):
		return "VIP " + key + ": its addresses by the masters' word"
	case kind == string(discovery.KindNode):
		return "address of node " + key
	case kind == string(discovery.KindMaster), kind == string(discovery.KindLeader):
		return "address of a master"
	case r.Type == "SRV":
		return "a port of task " + key + ", at its own name"
	case is(".slave."), is(".agentip."):
		return "node of task " + key
	case is(".containerip."):
		return "address of task " + key
	case is(".autoip."):
		return "where task " + key + " is reached"
	}
	return "address of task " + key
}
