// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
)

func changed(rows ...discovery.Row) map[discovery.Kind][]*discovery.Row {
	kinds := make(map[discovery.Kind][]*discovery.Row)
	for i := range rows {
		kinds[rows[i].Kind] = append(kinds[rows[i].Kind], &rows[i])
	}
	return kinds
}

func TestChangedWakesTheRightKinds(t *testing.T) {
	t.Parallel()
	var r Readers
	name, node, both, anything := r.Changed("name"), r.Changed("node"), r.Changed("node", "name"), r.Changed()
	if again := r.Changed("name", "node"); again != both {
		t.Error("the same kinds in another order have a channel of their own")
	}
	r.Wake(changed(discovery.Row{Writer: "a", Kind: "name", Key: "x"}))
	for what, ch := range map[string]<-chan struct{}{"name": name, "node+name": both, "any": anything} {
		select {
		case <-ch:
		default:
			t.Errorf("reader of %s still sleeps", what)
		}
	}
	select {
	case <-node:
		t.Error("reader of node woke up for a name")
	default:
	}
	if r.Changed("name") == name {
		t.Error("a closed channel is handed out again")
	}
}

func TestAFeedNamesWhatChangedSinceItWasAsked(t *testing.T) {
	t.Parallel()
	var r Readers
	f := r.Feed("name")
	x := discovery.Row{Writer: "a", Kind: "name", Key: "x"}
	take := func(wantAll bool, want map[Name]struct{}) {
		t.Helper()
		got, all := f.Take()
		if diff := cmp.Diff(got, want); diff != "" || all != wantAll {
			t.Errorf("all %t, want %t (-got +want):\n%s", all, wantAll, diff)
		}
	}
	r.Wake(changed(x))
	take(true, nil)
	take(false, nil)
	r.Wake(changed(x, discovery.Row{Writer: "b", Kind: "name", Key: "x"}, discovery.Row{Writer: "a", Kind: "node", Key: "y"}))
	r.Wake(changed(x))
	take(false, map[Name]struct{}{{"a", "x"}: {}, {"b", "x"}: {}})
	take(false, nil)
}
