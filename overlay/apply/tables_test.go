// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/bpf/table"
	"weft/overlay/compile"
)

// watched is a table that is looked at after every write.
type watched[K, V comparable] struct {
	table.Memory[K, V]
	look func()
}

func (w *watched[K, V]) Put(k K, v V) error {
	defer w.look()
	return w.Memory.Put(k, v)
}

func (w *watched[K, V]) Delete(k K) error {
	defer w.look()
	return w.Memory.Delete(k)
}

type verdicts = map[row.VerdictKey]row.Verdict

// isOpen does what the packet path does for one pair of identities: narrow verdicts count where the
// endpoint is ruled.
func isOpen(rows verdicts, ruled bool, proto uint8, port uint16) bool {
	keys := []row.VerdictKey{{Proto: proto, Port: port}, {Proto: proto}, {}}
	if !ruled {
		keys = keys[2:]
	}
	for _, k := range keys {
		if v, ok := rows[k]; ok {
			return v.Action != row.VerdictDeny
		}
	}
	return false
}

// isRuled is when compile marks an endpoint.
func isRuled(rows verdicts) bool {
	for k := range rows {
		if k.Proto != 0 {
			return true
		}
	}
	return false
}

// drawVerdicts draws the verdicts of one pair of identities.
func drawVerdicts(t *rapid.T, name string) verdicts {
	value := rapid.Custom(func(t *rapid.T) row.Verdict {
		return row.Verdict{Action: rapid.Uint8Range(0, 2).Draw(t, "action"), Rule: rapid.Uint32Range(0, 2).Draw(t, "rule")}
	})
	return rapid.MapOf(drawKey(), value).Draw(t, name)
}

func drawKey() *rapid.Generator[row.VerdictKey] {
	return rapid.Custom(func(t *rapid.T) row.VerdictKey {
		k := row.VerdictKey{Proto: rapid.SampledFrom([]uint8{0, 6, 17}).Draw(t, "proto")}
		if k.Proto != 0 {
			k.Port = rapid.Uint16Range(0, 2).Draw(t, "port")
		}
		return k
	})
}

// rowsOf is what compile makes of those verdicts: they and the endpoint.
func rowsOf(v verdicts) compile.Rows {
	e := row.Endpoint{Ifindex: 7}
	if isRuled(v) {
		e.Flags = row.EndpointRuled
	}
	return compile.Rows{Verdicts: v, Endpoints: map[row.EndpointKey]row.Endpoint{{}: e}}
}

func TestNoStepOfAChangeIsOpenThatIsClosedBeforeAndAfter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		before, want := drawVerdicts(t, "before"), drawVerdicts(t, "want")
		v := &watched[row.VerdictKey, row.Verdict]{look: func() {}}
		e := &watched[row.EndpointKey, row.Endpoint]{look: func() {}}
		tables := Tables{
			Verdicts: v, Endpoints: e, Workloads: new(table.Memory[uint32, row.Workload]), Spaces: new(table.Memory[uint64, row.Space]),
			Openings: new(table.Memory[row.OpeningKey, row.Opening]),
			Blocks:   new(table.Memory[row.BlockKey, row.Block]), Prefixes: new(table.Memory[row.PrefixKey, row.Prefix]),
			VTEPs: new(table.Memory[row.Addr, row.VTEP]),
		}
		sync := func(rows verdicts) error { _, err := tables.Sync(rowsOf(rows)); return err }
		if err := sync(before); err != nil {
			t.Fatal(err)
		}
		bad := rapid.MapOf(drawKey(), rapid.Just(true)).Draw(t, "bad")
		badEndpoint := rapid.Bool().Draw(t, "bad endpoint")
		refuse := func(bad bool) error {
			if bad {
				return errors.New("no room")
			}
			return nil
		}
		v.Fail = func(k row.VerdictKey) error { return refuse(bad[k]) }
		e.Fail = func(row.EndpointKey) error { return refuse(badEndpoint) }
		look := func() {
			now, _ := v.All()
			endpoint, _, _ := e.Get(row.EndpointKey{})
			for _, proto := range []uint8{1, 6, 17} {
				for port := range uint16(3) {
					if isOpen(now, endpoint.Flags != 0, proto, port) && !isOpen(before, true, proto, port) && !isOpen(want, true, proto, port) {
						t.Fatalf("%d/%d is open between\n%v and\n%v: %v, flags %d", proto, port, before, want, now, endpoint.Flags)
					}
				}
			}
		}
		v.look, e.look = look, look
		err := sync(want)
		if now, _ := v.All(); err == nil && !maps.Equal(now, want) {
			t.Fatalf("got %v, want %v", now, want)
		}
		v.Fail, e.Fail = nil, nil
		if err := sync(want); err != nil {
			t.Fatal(err)
		}
		now, _ := v.All()
		endpoints, _ := e.All()
		if !maps.Equal(now, want) || !maps.Equal(endpoints, rowsOf(want).Endpoints) {
			t.Fatalf("trying again: got %v, want %v", now, want)
		}
	})
}
