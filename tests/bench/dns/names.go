// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	wire "github.com/miekg/dns"

	"weft/discovery"
	"weft/discovery/zone"
	"weft/discovery/zone/record"
)

// Addresses of the stage.
var (
	network   = netip.MustParsePrefix("9.0.0.0/8")
	taskAddr  = netip.MustParseAddr("9.0.0.5") // of the client whose link has Weft's program
	nodeAddr  = netip.MustParseAddr("192.0.2.1")
	dnsAddr   = netip.MustParseAddr("198.51.100.1") // where Weft answers
	wireNode  = netip.MustParsePrefix("10.9.0.1/24")
	wireAsker = netip.MustParsePrefix("10.9.0.2/24") // of the client of all others
)

const (
	vni       = 7
	agents    = 1000
	poolSize  = 1 << 16
	netName   = "bench"
	framework = "weft"
)

// makeZone makes a zone of tasks, each with an address and a port.
func makeZone(tasks int) *zone.Zone {
	changes := []zone.Change{{
		Source: zone.Source{Kind: discovery.KindNetwork, Key: netName, Writer: discovery.Ledger},
		Fact:   zone.Network{Name: netName, VNI: vni, Subnets: []netip.Prefix{network}},
	}}
	for i := range min(agents, tasks) {
		id := fmt.Sprintf("host-%d", i)
		changes = append(changes, zone.Change{
			Source: zone.Source{Kind: discovery.KindNode, Key: id, Writer: id},
			Fact: zone.Host{Node: discovery.Node{
				ID: discovery.NodeID(id), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
			}},
		})
	}
	z, _ := zone.New(zone.Options{Servers: []netip.Addr{dnsAddr}, Self: "host-0"}).Completed().With(changes)
	piece := max(agents, tasks/20) // as nodes tell of theirs
	for from := 0; from < tasks; from += piece {
		changes = changes[:0]
		for i := from; i < min(from+piece, tasks); i++ {
			changes = append(changes, taskChange(i, 0))
		}
		z, _ = z.With(changes)
	}
	return z
}

// makeLarge makes a zone of so many names with an address each.
func makeLarge(names int) *zone.Zone {
	records := make([]record.Record, names)
	for i := range records {
		records[i] = record.Record{
			Name: label(i) + "." + framework + ".mesos.", Type: record.A, TTL: 5,
			Addr: netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)}), From: "static/bench", Writer: "host-0",
		}
	}
	z, _ := zone.New(zone.Options{Servers: []netip.Addr{dnsAddr}, Self: "host-0", Static: records}).Completed().With([]zone.Change{{
		Source: zone.Source{Kind: discovery.KindNetwork, Key: netName, Writer: discovery.Ledger},
		Fact:   zone.Network{Name: netName, VNI: vni, Subnets: []netip.Prefix{network}},
	}})
	return z
}

// taskChange is task i; another generation has another address.
func taskChange(i, generation int) zone.Change {
	node := fmt.Sprintf("host-%d", i%agents)
	id := fmt.Sprintf("task-%07d.5b0a7a1c", i)
	return zone.Change{
		Source: zone.Source{Kind: discovery.KindName, Key: id, Writer: node},
		Fact: zone.Task{Name: discovery.Name{
			Task: id, Label: label(i), Network: netName, Node: discovery.NodeID(node),
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{9, byte(1 + (i>>16+generation)%200), byte(i >> 8), byte(i)})},
			Ports: []discovery.NamedPort{{Name: "http", Protocol: "tcp", Port: 8080}},
		}},
	}
}

func label(i int) string { return fmt.Sprintf("app-%07d", i) }

// files of a zone: what the other servers read, and what is asked.
type files struct {
	zone, hosts, local, plain string // zone file, hosts file, Unbound's lines, "name address" lines
	a, srv, few               string // questions: every name, every service, a few of the names
	refresh                   int    // seconds, of who reads a master's state in their place
}

// writeFiles writes the same records for everybody; inUse is how many names are asked for where they are a few.
func writeFiles(dir string, z *zone.Zone, inUse int) (files, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	f := files{at("zone"), at("hosts"), at("local"), at("plain"), at("a"), at("srv"), at("few"), refreshUsual}
	zoneOut, err1 := create(f.zone)
	hosts, err2 := create(f.hosts)
	local, err3 := create(f.local)
	plain, err4 := create(f.plain)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return f, err
	}
	fmt.Fprintf(zoneOut, "$ORIGIN mesos.\nmesos. 5 IN SOA ns1.mesos. root.ns1.mesos. 1 60 600 86400 1\nmesos. 5 IN NS ns1.mesos.\n")
	var a, srv []string
	z.All(func(r record.Record) bool {
		if !strings.HasSuffix(r.Name, ".mesos.") || r.Type == record.SOA || r.Type == record.NS {
			return true
		}
		line := fmt.Sprintf("%s %d IN %s %s", r.Name, r.TTL, r.Type, r.Data())
		fmt.Fprintln(zoneOut, line)
		fmt.Fprintf(local, "local-data: %q\n", line)
		switch {
		case r.Type == record.A:
			fmt.Fprintln(plain, r.Name, r.Addr)
			fmt.Fprintln(hosts, r.Addr, strings.TrimSuffix(r.Name, "."))
			if strings.HasPrefix(r.Name, "app-") {
				a = append(a, r.Name)
			}
		case strings.HasPrefix(r.Name, "_app-"):
			srv = append(srv, r.Name)
		}
		return true
	})
	few := make([]string, 0, inUse)
	for range inUse {
		few = append(few, a[rand.IntN(len(a))])
	}
	return f, errors.Join(zoneOut.done(), hosts.done(), local.done(), plain.done(),
		writeQuestions(f.a, a, wire.TypeA), writeQuestions(f.srv, srv[:min(len(srv), inUse)], wire.TypeSRV), writeQuestions(f.few, few, wire.TypeA))
}

// output is a file that is written in large pieces.
type output struct {
	*bufio.Writer
	file *os.File
}

func create(path string) (*output, error) {
	file, err := os.Create(path)
	return &output{bufio.NewWriterSize(file, poolSize), file}, err
}

func (o *output) done() error { return errors.Join(o.Flush(), o.file.Close()) }

// writeQuestions packs messages, each behind its length; and beside them what would be answers, for the mirror.
func writeQuestions(path string, names []string, qtype uint16) error {
	out, err1 := create(path)
	answers, err2 := create(answersTo(path))
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	for _, name := range names {
		m := new(wire.Msg).SetQuestion(name, qtype)
		if err := out.message(m); err != nil {
			return err
		}
		m.Response = true
		head := wire.RR_Header{Name: name, Rrtype: qtype, Class: wire.ClassINET, Ttl: 5}
		if qtype == wire.TypeSRV {
			m.Answer = []wire.RR{&wire.SRV{Hdr: head, Target: "."}}
		} else {
			m.Answer = []wire.RR{&wire.A{Hdr: head, A: taskAddr.AsSlice()}}
		}
		m.Compress = true
		if err := answers.message(m); err != nil {
			return err
		}
	}
	return errors.Join(out.done(), answers.done())
}

// answersTo is the file of the answers to a file of questions.
func answersTo(questions string) string { return questions + ".answers" }

// message writes a message behind its length; done tells whether all was written.
func (o *output) message(m *wire.Msg) error {
	packed, err := m.Pack()
	if err != nil {
		return err
	}
	_, _ = o.Write(binary.BigEndian.AppendUint16(nil, uint16(len(packed))))
	_, _ = o.Write(packed)
	return nil
}
