// SPDX-License-Identifier: Apache-2.0

// Package faults is the corpus of what goes wrong with packets: each fault is one packet (or a few) through
// the real programs, over tables that the real engine compiled, and what the engine then tells of it. What
// it should tell is in testdata/faults.txt, to be read in review; `go test ./tests/faults -update` writes it.
package faults

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/bpf/bpftest"
	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/explain"
	"weft/tests/lab/labtest"
)

var update = flag.Bool("update", false, "write testdata/faults.txt")

const golden = "testdata/faults.txt"

// fault is one row of the corpus.
type fault struct {
	name    string
	program string
	meta    bpftest.Meta
	frame   []byte
	want    row.Reason
}

// unseen are reasons that no packet of a test run can be dropped for, and why.
var unseen = map[row.Reason]string{
	row.ReasonRedirectFailed: "a link must vanish while a packet is on its way",
	row.ReasonEncapFailed:    "the kernel must be out of memory, or the VXLAN device be missing",
}

func TestEveryFaultIsExplained(t *testing.T) {
	labtest.Require(t)
	w := newWorld(t)
	list := corpus(w)
	if len(list) < 100 {
		t.Errorf("the corpus has %d faults, want at least 100", len(list))
	}
	var told strings.Builder
	seen, named := make(map[row.Reason]bool), make(map[string]bool)
	for _, f := range list {
		if named[f.name] {
			t.Errorf("%s is there twice", f.name)
		}
		seen[f.want], named[f.name] = true, true
		e := w.run(t, f)
		if e.Reason != f.want.String() {
			t.Errorf("%s: got %s, want %s", f.name, e.Reason, f.want)
		}
		if e.Text == "" || e.Owner == "" || e.Suggestion == "" || strings.Contains(e.Text+e.Suggestion, "{") {
			t.Errorf("%s: not explained: %+v", f.name, e)
		}
		w.agrees(t, f, e)
		fmt.Fprintf(&told, "%s\n  %s, rule %d: %s\n  owner: %s\n  to change it: %s\n\n", f.name, e.Reason, e.Rule, e.Text, e.Owner, e.Suggestion)
	}
	for reason := range explain.Faults() {
		if !seen[reason] && unseen[reason] == "" {
			t.Errorf("no fault of the corpus is dropped for %s", reason)
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(told.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(told.String(), "\n")); diff != "" {
		t.Errorf("explanations (-want +got), -update writes them:\n%s", diff)
	}
}

// run runs the packet and returns what the engine tells of it.
func (w *world) run(t *testing.T, f fault) overlay.Event {
	t.Helper()
	if f.program == "edge" {
		if _, err := w.RunXDP(f.program, f.frame); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
	} else if _, err := w.RunUncounted(f.program, f.frame, f.meta); errors.Is(err, bpftest.ErrRefused) {
		t.Fatalf("%s: %v", f.name, err)
	} else if err != nil {
		t.Fatalf("%s: %v", f.name, err)
	}
	for {
		if e := w.next(t); e.Drop || e.Reason == row.ReasonAudited.String() {
			return e
		}
	}
}

// agrees asks `weft why` the same, where it can be asked, and wants the same words.
func (w *world) agrees(t *testing.T, f fault, e overlay.Event) {
	t.Helper()
	proto := strings.TrimSuffix(e.Protocol, "v6")
	if f.want != row.ReasonNoCommonGroup && f.want != row.ReasonDenied && f.want != row.ReasonAudited || e.SourceTask == "" ||
		e.DestTask == "" || strings.Contains(e.Text, "without groups") || strings.Contains(e.Text, "whose groups no master names") || !slices.Contains([]string{"tcp", "udp", "icmp"}, proto) {
		return
	}
	q := overlay.Question{
		Source: e.Source.Addr().String(), Destination: e.Destination.Addr().String(), Network: e.Network, Protocol: proto,
	}
	if proto != "icmp" {
		q.Port = e.Destination.Port()
	}
	v, err := w.engine.Explain(t.Context(), q)
	if err != nil || v.Reason != e.Reason || v.Text != e.Text || v.Owner != e.Owner || v.Suggestion != e.Suggestion || v.Rule != e.Rule {
		t.Errorf("%s: weft why says %v:\n%s\n%s\nthe event:\n%s\n%s", f.name, err, v.Text, v.Suggestion, e.Text, e.Suggestion)
	}
}

func corpus(w *world) []fault {
	list := append(policy(w), links(w)...)
	list = append(append(list, places(w)...), tunnels(w)...)
	return append(append(list, nodes(w)...), plain(w)...)
}

// family is one of the two, for what both have.
type family struct {
	name  string
	of    func(overlay.Endpoint) netip.Addr
	icmp  uint8
	ping  uint8
	none  netip.Addr // of n1's block, no task's
	gone  netip.Addr // of n2's block, no task's
	free  netip.Addr // of no block
	other netip.Addr // of network dev
	world netip.Addr
	many  netip.Addr // multicast
	vip   netip.Addr
	old   netip.Addr // of the plain node's block
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var families = []family{
	{
		"ipv4", func(e overlay.Endpoint) netip.Addr { return e.Addr4 }, bpftest.ICMP, 8, addr("10.1.1.99"), addr("10.1.2.99"),
		addr("10.1.9.9"), addr("10.2.2.9"), addr("203.0.113.5"), addr("224.0.0.251"), addr("11.1.2.3"), addr("10.1.3.9"),
	},
	{
		"ipv6", func(e overlay.Endpoint) netip.Addr { return e.Addr6 }, bpftest.ICMPv6, 128, addr("fd01:1::1:99"), addr("fd01:1::2:99"),
		addr("fd01:1::9:9"), addr("fd01:2::2:9"), addr("2001:db8:5::5"), addr("ff02::fb"), addr("fd01:c::11"), addr("fd01:1::3:9"),
	},
}

// packet is a valid one of a task; what is changed in it makes the fault.
func (w *world) packet(a family, from string, to netip.Addr, change func(*bpftest.Packet)) []byte {
	p := bpftest.Packet{
		SrcMAC: w.mac(from), Src: a.of(w.tasks[from]), Dst: to, Proto: bpftest.TCP, SPort: 40000, DPort: 80, Flags: bpftest.SYN,
		Frag: bpftest.DontFragment, Payload: []byte("hello"),
	}
	if change != nil {
		change(&p)
	}
	return p.Bytes()
}

// at makes a fault of a task's packet.
func (w *world) at(a family, name, from string, to netip.Addr, want row.Reason, change func(*bpftest.Packet)) fault {
	return fault{
		name: a.name + ": " + name, program: "from_workload", meta: bpftest.Meta{Ifindex: w.links[from]},
		frame: w.packet(a, from, to, change), want: want,
	}
}

func service(proto uint8, number uint16) func(*bpftest.Packet) {
	return func(p *bpftest.Packet) { p.Proto, p.DPort, p.Flags = proto, number, bpftest.SYN }
}

func (a family) echo(p *bpftest.Packet) {
	p.Proto, p.ICMPType, p.ICMPRest = a.icmp, a.ping, [4]byte{0x12, 0x34, 0, 1}
}
