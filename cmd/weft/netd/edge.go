// SPDX-License-Identifier: Apache-2.0

package netd

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"

	"github.com/spf13/cobra"

	edgeengine "weft/lb/edge/engine"
	"weft/overlay/apply"
)

// edgeFlags are those of nodes that take in clients from outside.
func edgeFlags(cmd *cobra.Command, o *Options) {
	cmd.Flags().StringArrayVar(&o.Edge, "edge", nil, "interface that clients outside of every network come in by, to published VIPs (repeatable; default: none)")
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
	d.edge, err = edgeengine.New(edgeengine.Options{
		Store: d.store, Members: d.gossip, VIPs: d.lb, Served: t.Served, Edge: t.Edge, Log: d.log.WithGroup("edge"),
	})
	return err
}
