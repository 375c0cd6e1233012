// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"weft/bpf"
	"weft/bpf/row"
	"weft/bpf/table"
	"weft/discovery"
	"weft/discovery/gossip"
	"weft/lb/announce"
	"weft/lb/announce/bgp"
	edgeengine "weft/lb/edge/engine"
	"weft/overlay/apply"
)

// edgeFlags are those of nodes that take in clients from outside.
func edgeFlags(cmd *cobra.Command, o *Options) {
	cmd.Flags().StringArrayVar(&o.Edge, "edge", nil, "interface that clients outside of every network come in by, to published VIPs (repeatable; default: none)")
	cmd.Flags().BoolVar(&o.Neighbours, "announce-neighbours", false, "tell the neighbours of edge interfaces where published addresses are (ARP and neighbour discovery): of all nodes with this flag one for each")
	cmd.Flags().Uint32Var(&o.BGP, "bgp-as", 0, "autonomous system of this node, to tell routers by BGP where published addresses are (default: none are told)")
	cmd.Flags().StringArrayVar(&o.BGPPeers, "bgp-peer", nil, "router to tell, ADDRESS=AS (repeatable)")
	cmd.Flags().StringVar(&o.BGPPassword, "bgp-password-file", "", "file with the password of BGP sessions (RFC 2385; default: none)")
}

// checkEdge refuses announcements of a node that is no edge, and those that nobody could hear.
func (o *Options) checkEdge() error {
	switch {
	case len(o.Edge) == 0 && (o.Neighbours || o.BGP != 0 || len(o.BGPPeers) > 0):
		return errors.New("published addresses are announced by nodes of the edge: name its interfaces with --edge, or leave --announce-neighbours and --bgp-... out")
	case (o.BGP == 0) != (len(o.BGPPeers) == 0):
		return errors.New("--bgp-as and --bgp-peer go together")
	}
	return nil
}

// edgeSeed is what all edge nodes mix into the hash of flows: the same on all of them, and where the cluster has a
// secret nobody else's to know, so that clients can't choose their backends.
func edgeSeed(secret []byte) uint64 {
	seed, err := hkdf.Key(sha256.New, secret, nil, "weft edge seed", 8)
	if err != nil {
		return 0 // of this length none is refused
	}
	return binary.BigEndian.Uint64(seed)
}

// attachEdge puts the edge's programs onto the interfaces that clients come in by.
func (d *daemon) attachEdge(ctx context.Context) error {
	links, err := apply.FindEdgeLinks(d.o.Edge)
	if err != nil {
		return err
	}
	var indexes []uint32
	for _, l := range links {
		indexes = append(indexes, l.Ifindex)
		fast, err := d.plane.AttachEdge(l.Ifindex, l.XDP)
		if err != nil {
			return err
		}
		d.log.InfoContext(ctx, "edge", "interface", l.Name, "xdp", fast)
	}
	return d.plane.DetachEdges(indexes...)
}

func (d *daemon) makeEdge(context.Context) (err error) {
	t := d.plane.Tables()
	o := edgeengine.Options{
		Store: d.store, Members: members{d.gossip}, VIPs: d.lb, Served: t.Served, Relays: t.Relays, Answers: t.ClientAnswers, Edge: t.Edge,
		Paths: d.overlay.Paths(), Peers: d.asker, Log: d.log.WithGroup("edge"),
	}
	if t.Edge != nil {
		links, err := apply.FindEdgeLinks(d.o.Edge)
		if err != nil {
			return err
		}
		if err := d.makeAnnouncements(t.Edge, links); err != nil {
			return err
		}
	}
	if d.links != nil {
		o.Leads = d.links
	}
	if d.edge, err = edgeengine.New(o); err != nil || len(d.o.BGPPeers) == 0 {
		return err
	}
	return d.makeBGP()
}

func (d *daemon) makeBGP() (err error) {
	o := bgp.Options{
		AS: d.o.BGP, ID: d.underlay.Addr4, NextHop4: d.underlay.Addr4, NextHop6: d.underlay.Addr6, Serving: d.edge, Log: d.log.WithGroup("bgp"),
	}
	for _, text := range d.o.BGPPeers {
		p, err := bgp.ParsePeer(text)
		if err != nil {
			return err
		}
		o.Peers = append(o.Peers, p)
	}
	if d.o.BGPPassword != "" {
		password, err := os.ReadFile(d.o.BGPPassword)
		if err != nil {
			return fmt.Errorf("read the password of bgp: %w", err)
		}
		o.Password = strings.TrimSpace(string(password))
	}
	d.bgp, err = bgp.New(o)
	return err
}

// makeAnnouncements tells neighbours of the edge's interfaces, if that is asked for.
func (d *daemon) makeAnnouncements(t *bpf.EdgeTables, links []apply.EdgeLink) (err error) {
	told := make(map[uint32]row.EdgeLink)
	o := announce.LinkOptions{Store: d.store, Members: members{d.gossip}, Send: apply.SendOn, Log: d.log.WithGroup("announce")}
	if d.o.Neighbours {
		for _, l := range links {
			told[l.Ifindex] = row.EdgeLink{MAC: l.MAC}
			o.Links = append(o.Links, announce.Link{Ifindex: l.Ifindex, MAC: l.MAC})
		}
		if d.links, err = announce.NewLinks(o); err != nil {
			return err
		}
	}
	_, err = table.Sync(t.Links, told)
	return err
}

// announce tells the network outside where published addresses are.
func (d *daemon) announce(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if d.links != nil {
		group.Go(func() error { return d.links.Run(ctx) })
	}
	if d.bgp != nil {
		group.Go(func() error { return d.bgp.Run(ctx) })
	}
	return group.Wait()
}

// edgeTag is what members of the edge have; its value says who tells neighbours of published addresses.
const edgeTag, edgeNeighbours, edgeRouted = "edge", "neighbours", "routed"

func (d *daemon) tags() map[string]string {
	tags := map[string]string{"sync": strconv.Itoa(int(d.o.Port))}
	switch {
	case len(d.o.Edge) > 0 && d.o.Neighbours:
		tags[edgeTag] = edgeNeighbours
	case len(d.o.Edge) > 0:
		tags[edgeTag] = edgeRouted
	}
	return tags
}

// members are those of the cluster, with what they say of the edge.
type members struct{ *gossip.Gossip }

// Edges implements edgeengine.Members.
func (a members) Edges() []discovery.NodeID {
	return a.edges(func(tag string) bool { return tag != "" })
}

// Announcers implements announce.Members.
func (a members) Announcers() []discovery.NodeID {
	return a.edges(func(tag string) bool { return tag == edgeNeighbours })
}

// edges returns the nodes that live and whose tag is one of those.
func (a members) edges(of func(tag string) bool) (nodes []discovery.NodeID) {
	for _, m := range a.Members() {
		if m.Alive && m.Role == gossip.RoleNode && of(m.Tags[edgeTag]) {
			nodes = append(nodes, m.ID)
		}
	}
	return nodes
}
