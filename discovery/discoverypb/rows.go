// SPDX-License-Identifier: Apache-2.0

package discoverypb

import (
	"errors"
	"fmt"
	"iter"

	"weft/discovery"
	"weft/discovery/state"
)

const (
	// messageBytes is about how much one message carries; gRPC takes up to 4 MiB, a row up to 1.
	messageBytes = 512 << 10
	// batchLimit is how much of one batch is held before it is taken, bytes: a writer's whole state.
	batchLimit = 256 << 20
)

func digestOut(d state.Digest) *Digest {
	out := &Digest{
		Known: make([]*Known, 0, len(d.Known)), Whole: d.Whole, Topics: topicsOut(d.Topics), Interest: d.Interest,
	}
	for of, p := range d.Known {
		out.Known = append(out.Known, &Known{Writer: of.Writer, Topic: of.Topic.String(), Incarnation: p.Incarnation, Seq: p.Seq})
	}
	return out
}

func digestIn(d *Digest) state.Digest {
	in := state.Digest{
		Known: make(map[discovery.Stream]discovery.Position, len(d.GetKnown())), Whole: d.GetWhole(),
		Topics: topicsIn(d.GetTopics()), Interest: d.GetInterest(),
	}
	for _, k := range d.GetKnown() {
		in.Known[discovery.Stream{Writer: k.GetWriter(), Topic: discovery.ParseTopic(k.GetTopic())}] = discovery.Position{Incarnation: k.GetIncarnation(), Seq: k.GetSeq()}
	}
	return in
}

func topicsOut(topics []discovery.Topic) []string {
	out := make([]string, len(topics))
	for i, t := range topics {
		out[i] = t.String()
	}
	return out
}

func topicsIn(texts []string) []discovery.Topic {
	in := make([]discovery.Topic, len(texts))
	for i, text := range texts {
		in[i] = discovery.ParseTopic(text)
	}
	return in
}

// batchOut cuts a batch into messages.
func batchOut(b state.Batch) iter.Seq[*SyncMessage] {
	return func(yield func(*SyncMessage) bool) {
		rows := b.Rows
		for {
			piece := &Batch{
				Writer: b.Writer, Topic: b.Topic.String(), Incarnation: b.Incarnation, From: b.From, To: b.To, Reset_: b.Reset,
			}
			size := 0
			for len(rows) > 0 && size < messageBytes {
				r := &rows[0]
				piece.Rows = append(piece.Rows, &BatchRow{
					Kind: string(r.Kind), Key: r.Key, Seq: r.Seq, Deleted: r.Deleted, Value: r.Value,
				})
				size += len(r.Key) + len(r.Value)
				rows = rows[1:]
			}
			piece.More = len(rows) > 0
			if !yield(&SyncMessage{Body: &SyncMessage_Batch{Batch: piece}}) || !piece.GetMore() {
				return
			}
		}
	}
}

// batchIn puts a batch together again.
type batchIn struct {
	batch state.Batch
	begun bool
	size  int
}

// add takes the next message and tells whether the batch is complete.
func (in *batchIn) add(b *Batch) (complete bool, err error) {
	head := state.Batch{
		Stream:      discovery.Stream{Writer: b.GetWriter(), Topic: discovery.ParseTopic(b.GetTopic())},
		Incarnation: b.GetIncarnation(), From: b.GetFrom(), To: b.GetTo(), Reset: b.GetReset_(),
	}
	if !in.begun {
		in.begun, in.batch, in.size = true, head, 0
	}
	if old := &in.batch; old.Stream != head.Stream || old.Incarnation != head.Incarnation ||
		old.From != head.From || old.To != head.To || old.Reset != head.Reset {
		return false, errors.New("a batch goes on as another one")
	}
	for _, r := range b.GetRows() {
		in.batch.Rows = append(in.batch.Rows, discovery.Row{
			Writer: in.batch.Writer, Kind: discovery.Kind(r.GetKind()), Key: r.GetKey(),
			Incarnation: in.batch.Incarnation, Seq: r.GetSeq(), Deleted: r.GetDeleted(), Value: r.GetValue(),
		})
		in.size += len(r.GetKey()) + len(r.GetValue())
	}
	if in.size > batchLimit {
		return false, fmt.Errorf("a batch of %s has more than %d bytes", in.batch.Stream, batchLimit)
	}
	return !b.GetMore(), nil
}

// take returns the complete batch and makes room for the next.
func (in *batchIn) take() state.Batch {
	in.begun = false
	return in.batch
}

func rowBytes(rows []discovery.Row) (n uint64) {
	for i := range rows {
		n += uint64(len(rows[i].Key) + len(rows[i].Value))
	}
	return n
}
