// SPDX-License-Identifier: Apache-2.0

package operation

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
)

var endpoints = discovery.Stream{Writer: "a", Topic: discovery.Topic{Kind: "endpoint"}}

// all are operations, each in a form of its own.
var all = []Operation{
	{Code: SetRow, Row: discovery.Row{Writer: "a", Kind: "name", Key: "x", Incarnation: 1, Seq: 2, Value: []byte("v")}},
	{Code: SetRow, Row: discovery.Row{Writer: "a", Kind: "name", Key: "x", Incarnation: 1, Seq: 3, Deleted: true}},
	{Code: DropRow, Row: discovery.Row{Writer: "a", Kind: "name", Key: "x"}},
	{Code: SetStream, Stream: Known{Stream: endpoints, Incarnation: 1, Seq: 2, Floor: 1}},
	{Code: Forget, Stream: Known{Stream: endpoints}},
}

func write(tb testing.TB, op Operation) []byte {
	tb.Helper()
	switch op.Code {
	case SetRow:
		return AppendRow(nil, &op.Row)
	case DropRow:
		return AppendDrop(nil, &op.Row)
	case SetStream:
		return AppendStream(nil, &op.Stream)
	case Forget:
		return AppendForget(nil, op.Stream.Stream)
	default:
		tb.Fatalf("nobody writes operation %d", op.Code)
		return nil
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	var record []byte
	for _, op := range all {
		record = append(record, write(t, op)...)
	}
	var got []Operation
	for len(record) > 0 {
		op, rest, err := Read(record)
		if err != nil {
			t.Fatal(err)
		}
		got, record = append(got, op), rest
	}
	if diff := cmp.Diff(got, all); diff != "" {
		t.Errorf("read (-got +want):\n%s", diff)
	}
}

func FuzzRead(f *testing.F) {
	for _, op := range all {
		f.Add(write(f, op))
	}
	f.Add([]byte{byte(oldWriter), 1, 'a', 5, 2, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		op, rest, err := Read(data)
		if err != nil {
			return
		}
		if len(rest) >= len(data) {
			t.Fatal("nothing was read")
		}
		op2, rest2, err := Read(write(t, op))
		if op.Old = false; err != nil || len(rest2) > 0 || !cmp.Equal(op2, op) {
			t.Fatalf("written again: %+v, %v; want %+v", op2, err, op)
		}
	})
}
