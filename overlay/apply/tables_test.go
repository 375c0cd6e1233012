// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"weft/bpf/row"
	"weft/bpf/table"
)

// watched is a table of verdicts that is looked at after every write.
type watched struct {
	table.Memory[row.VerdictKey, row.Verdict]
	after func(map[row.VerdictKey]row.Verdict)
}

func (w *watched) Put(k row.VerdictKey, v row.Verdict) error {
	defer w.look()
	return w.Memory.Put(k, v)
}

func (w *watched) Delete(k row.VerdictKey) error {
	defer w.look()
	return w.Memory.Delete(k)
}

func (w *watched) look() {
	if rows, _ := w.All(); w.after != nil {
		w.after(rows)
	}
}

// services are what a packet may ask for: key, wider, widest.
func open(rows map[row.VerdictKey]row.Verdict, proto uint8, port uint16) bool {
	for _, k := range []row.VerdictKey{{Proto: proto, Port: port}, {Proto: proto}, {}} {
		if v, ok := rows[k]; ok {
			return v.Action != row.VerdictDeny
		}
	}
	return false
}

func TestNoStepOfAChangeIsOpenThatIsClosedBeforeAndAfter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.Custom(func(t *rapid.T) row.VerdictKey {
			k := row.VerdictKey{Proto: rapid.SampledFrom([]uint8{0, 6, 17}).Draw(t, "proto")}
			if k.Proto != 0 {
				k.Port = rapid.Uint16Range(0, 2).Draw(t, "port")
			}
			return k
		})
		value := rapid.Custom(func(t *rapid.T) row.Verdict {
			return row.Verdict{Action: rapid.Uint8Range(0, 2).Draw(t, "action"), Rule: rapid.Uint32Range(0, 2).Draw(t, "rule")}
		})
		before := rapid.MapOf(key, value).Draw(t, "before")
		want := rapid.MapOf(key, value).Draw(t, "want")
		var w watched
		for k, v := range before {
			if err := w.Put(k, v); err != nil {
				t.Fatal(err)
			}
		}
		bad := rapid.MapOf(key, rapid.Just(true)).Draw(t, "bad")
		w.Fail = func(k row.VerdictKey) error {
			if bad[k] {
				return errors.New("no room")
			}
			return nil
		}
		w.after = func(now map[row.VerdictKey]row.Verdict) {
			for _, proto := range []uint8{1, 6, 17} {
				for port := range uint16(3) {
					if open(now, proto, port) && !open(before, proto, port) && !open(want, proto, port) {
						t.Fatalf("%d/%d is open between\n%v and\n%v: %v", proto, port, before, want, now)
					}
				}
			}
		}
		_, err := syncVerdicts(&w, want)
		now, _ := w.All()
		if err == nil && !maps.Equal(now, want) {
			t.Fatalf("got %v, want %v", now, want)
		}
		w.Fail = nil
		if _, err := syncVerdicts(&w, want); err != nil {
			t.Fatal(err)
		}
		if now, _ = w.All(); !maps.Equal(now, want) {
			t.Fatalf("trying again: got %v, want %v", now, want)
		}
	})
}
