// SPDX-License-Identifier: Apache-2.0

package explain_test

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/bpf/bpftest"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/explain"
)

// TestProbesAreWholePackets wants what a stack would send, but a datagram that no stack takes.
func TestProbesAreWholePackets(t *testing.T) {
	t.Parallel()
	f, w := explained()
	for name, row := range map[string]struct {
		dst, service string
		from, to     string
		good         bool
	}{
		"tcp":           {"db", "tcp/80", "9.0.0.1:61007", "9.0.1.1:80", true},
		"tcp over IPv6": {"six", "tcp/80", "[fd01:b::1]:61007", "[fd01:b::1:1]:80", true},
		"udp":           {"db", "udp/53", "9.0.0.1:61007", "9.0.1.1:53", false},
		"udp over IPv6": {"six", "udp/53", "[fd01:b::1]:61007", "[fd01:b::1:1]:53", false},
		"ping":          {"db", "icmp/0", "9.0.0.1:61007", "9.0.1.1:61007", true},
		"ping by IPv6":  {"six", "icmp/0", "[fd01:b::1]:61007", "[fd01:b::1:1]:61007", true},
		"a VIP":         {"11.1.2.3", "tcp/80", "9.0.0.1:61007", "11.1.2.3:80", true},
		"the world":     {"8.8.8.8", "tcp/80", "9.0.0.1:61007", "8.8.8.8:80", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := explain.PlanProbe(f, w, question("web-1", row.dst, row.service), 61007)
			if err != nil {
				t.Fatal(err)
			}
			if p.From != netip.MustParseAddrPort(row.from) || p.To != netip.MustParseAddrPort(row.to) {
				t.Errorf("got %s to %s", p.From, p.To)
			}
			frame := p.Frame()
			if err := bpftest.Check(frame); (err == nil) != row.good {
				t.Errorf("got %v: % x", err, frame)
			}
			if strings.HasPrefix(row.service, "udp") && binary.BigEndian.Uint16(frame[len(frame)-2:]) == 0 {
				t.Error("the datagram has no checksum: a stack would take it")
			}
		})
	}
}

func TestOnlyTasksOfThisNodeAreFollowed(t *testing.T) {
	t.Parallel()
	f, w := explained()
	for src, want := range map[string]string{"world": "no task", "db": "runs on node n2", "10.0.0.1": "no task"} {
		if _, err := explain.PlanProbe(f, w, question(src, "web-1", "tcp/80"), 61000); !errors.Is(err, overlay.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", src, err, want)
		}
	}
}

// TestChainFollowsThePacket mixes nodes whose clocks disagree: a packet is met where it was sent to.
func TestChainFollowsThePacket(t *testing.T) {
	t.Parallel()
	at := func(node discovery.NodeID, program, reason string) overlay.Event {
		return overlay.Event{Node: node, Program: program, Reason: reason}
	}
	want := []overlay.Event{
		at("a", "from_workload", "encapsulated"), at("b", "from_underlay", "slow_path"), at("b", "from_tunnel", "delivered"),
		at("b", "from_workload", "encapsulated"), at("a", "from_underlay", "delivered"), at("a", "from_workload", "encapsulated"),
		at("b", "from_underlay", "delivered"),
	}
	of := make(map[discovery.NodeID][]overlay.Event)
	for _, e := range want {
		of[e.Node] = append(of[e.Node], e)
	}
	got := explain.Chain(of, "a")
	if !slices.EqualFunc(got, want, func(x, y overlay.Event) bool {
		return x.Node == y.Node && x.Program == y.Program && x.Reason == y.Reason
	}) {
		t.Errorf("got %+v", got)
	}
	if got := explain.Chain(nil, "a"); got != nil {
		t.Errorf("got %v of nothing", got)
	}
}
