// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"cmp"
	"context"
	"fmt"

	"weft/bpf/row"
	"weft/overlay"
	"weft/overlay/explain"
)

// Explain tells whether a packet would arrive and why, by the tables of the packet path. Tasks of other nodes are asked for.
func (w *Watcher) Explain(ctx context.Context, q overlay.Question) (overlay.Verdict, error) {
	now := w.o.Now()
	remote, err := w.elsewhere.Sides(ctx, now, q)
	if err != nil {
		return overlay.Verdict{}, fmt.Errorf("explain: %w", err)
	}
	var failed error
	v, err := explain.Answer(now, explain.World{
		Remote: remote, NodeAddrs: w.o.Addrs,
		Verdict: func(key row.VerdictKey) (row.Verdict, bool) {
			v, ok, err := w.o.Verdicts.Get(key)
			failed = cmp.Or(failed, err)
			return v, ok
		},
		Clauses: func(key row.ClausesKey) (row.Clauses, bool) {
			c, ok, err := w.o.Clauses.Get(key)
			failed = cmp.Or(failed, err)
			return c, ok
		},
	}, q)
	if err := cmp.Or(err, failed); err != nil {
		return overlay.Verdict{}, fmt.Errorf("explain: %w", err)
	}
	return v, nil
}
