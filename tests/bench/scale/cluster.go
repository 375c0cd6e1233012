// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"weft/bpf/row"
	"weft/discovery"
	"weft/discovery/state"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
)

// size is that of a cluster; tasks are per node.
type size struct {
	nodes, tasks, groups int
	own                  bool // nodes' own processes have part in networks, by addresses of both families
}

func (s size) tenth() size { return size{nodes: s.nodes / 10, tasks: s.tasks, groups: s.groups / 10} }

func nodeID(n int) string      { return "n" + strconv.Itoa(n) }
func taskID(n, i int) string   { return fmt.Sprintf("task-%d-%d", n, i) }
func group(i int) string       { return "g" + strconv.Itoa(i) }
func vtep(n int) netip.Addr    { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }
func block(n int) netip.Prefix { return netip.PrefixFrom(taskAddr(n, -1), 24) }
func taskAddr(n, i int) netip.Addr {
	return netip.AddrFrom4([4]byte{9, byte(n >> 8), byte(n), byte(i + 1)})
}

// fill writes the disk of node n0: its own rows, and what it got of a master that holds everything.
func (s size) fill(dir string, named bool) (err error) {
	master, err := state.Open(state.Options{Whole: true})
	if err != nil {
		return err
	}
	if _, err := master.Apply(s.ledger()); err != nil {
		return err
	}
	for n := 1; n < s.nodes; n++ {
		if _, err := master.Apply(s.rowsOf(n, named)); err != nil {
			return err
		}
	}
	node, err := state.Open(state.Options{Self: nodeID(0), Dir: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	for _, r := range s.rowsOf(0, named) {
		if err := node.Put(r.Kind, r.Key, r.Value); err != nil {
			return err
		}
	}
	for b := range master.Since(node.Digest()) {
		if _, err := node.ApplyBatch(b); err != nil {
			return err
		}
	}
	return nil
}

// ledger is what the masters have decided.
func (s size) ledger() []discovery.Row {
	rows := []discovery.Row{ledgerRow(discovery.KindNetwork, "prod", overlay.Network{
		Name: "prod", VNI: 1, Subnet4: netip.MustParsePrefix("9.0.0.0/8"),
	}.Normal())}
	for n := range s.nodes {
		id := discovery.NodeID(nodeID(n))
		admission := discovery.Admission{Node: id, VTEP: vtep(n)}
		if s.own {
			admission.Host4, admission.Host6 = overlay.NodeAddrs(uint32(n) + 1)
		}
		rows = append(rows, ledgerRow(discovery.KindAdmission, nodeID(n), admission),
			ledgerRow(discovery.KindBlock, block(n).String(), overlay.Block{Network: "prod", Node: id, Prefix: block(n)}))
	}
	for i := range s.groups {
		set := overlay.GroupSet{Network: "prod", Groups: []string{group(i)}, Identity: row.IdentityFirst + overlay.Identity(i)}
		rows = append(rows, ledgerRow(discovery.KindGroup, "prod/"+group(i), overlay.Group{Network: "prod", Name: group(i)}),
			ledgerRow(discovery.KindIdentity, fmt.Sprint("prod/", set.Identity), set))
	}
	for i := range rows {
		rows[i].Seq = uint64(i + 1)
	}
	return rows
}

func ledgerRow(kind discovery.Kind, key string, v any) discovery.Row {
	return discovery.Row{Writer: discovery.Ledger, Kind: kind, Key: key, Incarnation: 1, Seq: 1, Value: text(v)}
}

// text is JSON; nouns can all be written.
func text(v any) []byte {
	value, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return value
}

// rowsOf are what a node says: itself, its tasks and, if wished, their names.
func (s size) rowsOf(n int, named bool) []discovery.Row {
	id := discovery.NodeID(nodeID(n))
	var rows []discovery.Row
	say := func(kind discovery.Kind, key string, v any) {
		rows = append(rows, discovery.Row{
			Writer: nodeID(n), Kind: kind, Key: key, Incarnation: 1, Seq: uint64(len(rows) + 1), Value: text(v),
		})
	}
	say(discovery.KindNode, nodeID(n), discovery.Node{
		ID: id, Hostname: nodeID(n) + ".example", Addrs: []netip.Addr{vtep(n)}, Peer: vtep(n).String() + ":7701", MTU: 1500, Version: "bench",
	})
	for i := range s.tasks {
		g := (n*s.tasks + i) % s.groups
		mac := compile.MAC(taskAddr(n, i), netip.Addr{})
		say(discovery.KindEndpoint, taskID(n, i), overlay.Endpoint{
			Attachment: overlay.Attachment{
				ID: taskID(n, i), Task: taskID(n, i), Name: "web", Network: "prod", Groups: []string{group(g)},
				NetNS: "/proc/1/ns/net", Interface: "eth0",
			},
			Node: id, VNI: 1, Addr4: taskAddr(n, i), MAC: fmt.Sprintf("%x", mac), Identity: row.IdentityFirst + overlay.Identity(g), MTU: 1450,
			HostInterface: apply.LinkName(taskID(n, i)), Cookie: uint64(i + 1), Since: time.Unix(1, 0),
		})
		if named {
			name := discovery.Name{
				Task: taskID(n, i), Label: "web", Framework: "weft", Network: "prod", Node: id, Addrs: []netip.Addr{taskAddr(n, i)},
			}
			say(discovery.KindName, name.RowKey(), name)
		}
	}
	return rows
}
