// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/compile"
)

func TestTraceIsTheWalkOfOneProbe(t *testing.T) {
	n := start(t, nil, map[string][]string{"web-1": {"web"}, "web-2": {"web"}})
	web := n.endpoint(t, "web-1")
	n.sent = func(frame []byte) {
		rows, _ := n.table.All()
		if len(rows) != 1 || !n.tracing() {
			t.Errorf("a probe was sent with %v in the table, tracing %v", rows, n.tracing())
		}
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(frame[26:30])), uint16(frame[34])<<8|uint16(frame[35]))
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte(frame[30:34])), uint16(frame[36])<<8|uint16(frame[37]))
		go func() {
			n.meet(t, netip.AddrPortFrom(web.Addr4, 5), to, row.ProgramFromWorkload, row.ReasonDelivered) // another flow
			n.meet(t, from, to, row.ProgramFromWorkload, row.ReasonDelivered)
			n.meet(t, to, from, row.ProgramFromWorkload, row.ReasonDelivered)
		}()
	}
	var walk []overlay.Event
	q := overlay.Question{Source: "web-1", Destination: "web-2", Protocol: "tcp", Port: 80}
	err := n.Events(t.Context(), overlay.Filter{Trace: &q}, func(e overlay.Event) error { walk = append(walk, e); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if len(walk) != 2 || walk[0].SourceTask != "web-1" || walk[0].Destination.Port() != 80 || walk[1].SourceTask != "web-2" {
		t.Errorf("got %+v, want the probe and its answer", walk)
	}
	if rows, _ := n.table.All(); len(rows) != 0 || n.tracing() {
		t.Errorf("%v is left in the table, tracing %v", rows, n.tracing())
	}
	if rows := n.store.Own(discovery.KindTrace); len(rows) != 0 {
		t.Errorf("rows %v are left", rows)
	}
}

// TestALateNodeIsWaitedFor has the other node say that it watches, and tell what it met long after the rest was quiet.
func TestALateNodeIsWaitedFor(t *testing.T) {
	for _, tt := range []struct {
		name string
		ends row.Reason // of what this node met
		want []string
		took time.Duration
	}{
		{"sent off", row.ReasonEncapsulated, []string{"n1 encapsulated", "n2 delivered"}, traceLate - time.Millisecond + traceQuiet},
		{"dropped here", row.ReasonNoCommonGroup, []string{"n1 no_common_group"}, traceQuiet},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, _, far := startBeside(t)
				from := netip.AddrPortFrom(n.endpoint(t, "web").Addr4, 61000)
				says := func(id string, seq uint64, events ...overlay.Event) {
					value, err := json.Marshal(overlay.Walk{Events: events})
					if err == nil {
						_, err = n.store.Apply([]discovery.Row{{Writer: "n2", Kind: discovery.KindWalk, Key: id, Incarnation: 1, Seq: seq, Value: value}})
					}
					if err != nil {
						t.Error(err)
					}
				}
				n.sent = func(frame []byte) {
					from = netip.AddrPortFrom(from.Addr(), uint16(frame[34])<<8|uint16(frame[35]))
					id := n.store.Own(discovery.KindTrace)[0].Key
					go func() {
						n.meet(t, from, netip.AddrPortFrom(far, 80), row.ProgramFromWorkload, tt.ends)
						if tt.ends == row.ReasonEncapsulated {
							time.Sleep(traceLate - time.Millisecond) // of the bubble
							says(id, 2, overlay.Event{Node: "n2", Reason: row.ReasonDelivered.String()})
						}
					}()
				}
				go func() { // n2 is ready as soon as it hears of the trace
					changed := n.store.Changed(discovery.KindTrace)
					if len(n.store.Own(discovery.KindTrace)) == 0 {
						<-changed
					}
					says(n.store.Own(discovery.KindTrace)[0].Key, 1)
				}()
				var got []string
				q := overlay.Question{Source: "web", Destination: "far", Protocol: "tcp", Port: 80}
				began := time.Now()
				err := n.Events(t.Context(), overlay.Filter{Trace: &q}, func(e overlay.Event) error {
					got = append(got, string(e.Node)+" "+e.Reason)
					return nil
				})
				if took := time.Since(began); err != nil || !slices.Equal(got, tt.want) || took != tt.took {
					t.Errorf("got %q after %s (%v), want %q after %s", got, took, err, tt.want, tt.took)
				}
			})
		})
	}
}

// TestOtherNodesAreToldOfTheirTraces plays the node that asks.
func TestOtherNodesAreToldOfTheirTraces(t *testing.T) {
	n := start(t, nil, map[string][]string{"db-1": {"db"}})
	db := n.endpoint(t, "db-1")
	from, to := netip.MustParseAddrPort("9.0.7.7:61000"), netip.AddrPortFrom(db.Addr4, 80)
	ask := func(seq uint64, gone bool) {
		value, err := json.Marshal(overlay.Trace{ID: "x", Node: self, VNI: db.VNI, From: from, Protocol: compile.TCP})
		if err != nil {
			t.Fatal(err)
		}
		r := discovery.Row{Writer: "n2", Kind: discovery.KindTrace, Key: "x", Incarnation: 1, Seq: seq, Value: value, Deleted: gone}
		if _, err := n.store.Apply([]discovery.Row{r}); err != nil {
			t.Fatal(err)
		}
	}
	// walk waits for a walk row that is as it should be, nil: gone.
	walk := func(is func(*overlay.Walk) bool) {
		t.Helper()
		for {
			changed := n.store.Changed(discovery.KindWalk)
			var w *overlay.Walk
			for _, r := range n.store.Own(discovery.KindWalk) {
				w = new(overlay.Walk)
				if err := json.Unmarshal(r.Value, w); err != nil {
					t.Fatal(err)
				}
			}
			if is(w) {
				return
			}
			select {
			case <-changed:
			case <-t.Context().Done():
				t.Fatalf("got %+v", w)
			}
		}
	}
	ask(1, false)
	walk(func(w *overlay.Walk) bool { return w != nil && len(w.Events) == 0 })
	n.meet(t, from, to, row.ProgramFromUnderlay, row.ReasonNoCommonGroup)
	walk(func(w *overlay.Walk) bool {
		return w != nil && len(w.Events) == 1 && w.Events[0].DestTask == "db-1" && w.Events[0].Node == self && w.Events[0].Owner != ""
	})
	ask(2, true)
	walk(func(w *overlay.Walk) bool { return w == nil })
}

func TestAllPacketsAreOfATaskOfThisNode(t *testing.T) {
	n := start(t, nil, map[string][]string{"web-1": {"web"}})
	web := n.endpoint(t, "web-1")
	nothing := func(overlay.Event) error { return nil }
	if err := n.Events(t.Context(), overlay.Filter{Task: "db-9", All: true}, nothing); !errors.Is(err, overlay.ErrNotFound) {
		t.Errorf("got %v of a task that is not here", err)
	}
	if err := n.Events(t.Context(), overlay.Filter{All: true}, nothing); !errors.Is(err, overlay.ErrInvalid) {
		t.Errorf("got %v without a task", err)
	}
	enough := errors.New("enough")
	go n.meet(t, netip.AddrPortFrom(web.Addr4, 1), netip.MustParseAddrPort("9.0.0.9:2"), row.ProgramFromWorkload, row.ReasonDelivered)
	err := n.Events(t.Context(), overlay.Filter{Task: "web-1", All: true}, func(e overlay.Event) error {
		if rows, _ := n.table.All(); len(rows) != len(web.Addrs()) || e.Packets != 1 {
			t.Errorf("got %v in the table, event %+v", rows, e)
		}
		return enough
	})
	if rows, _ := n.table.All(); !errors.Is(err, enough) || len(rows) != 0 {
		t.Errorf("got %v, and %v is left in the table", err, rows)
	}
}
