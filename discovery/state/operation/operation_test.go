// SPDX-License-Identifier: Apache-2.0

package operation

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/discovery"
)

func FuzzRead(f *testing.F) {
	endpoints := discovery.Stream{Writer: "a", Topic: discovery.Topic{Kind: "endpoint"}}
	f.Add(AppendRow(nil, &discovery.Row{Writer: "a", Kind: "name", Key: "x", Incarnation: 1, Seq: 2, Value: []byte("v")}))
	f.Add(AppendDrop(nil, &discovery.Row{Writer: "a", Kind: "name", Key: "x"}))
	f.Add(AppendStream(nil, &Known{Stream: endpoints, Incarnation: 1, Seq: 2, Floor: 1}))
	f.Add(AppendForget(nil, endpoints))
	f.Add([]byte{byte(oldWriter), 1, 'a', 5, 2, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		op, rest, err := Read(data)
		if err != nil {
			return
		}
		if len(rest) >= len(data) {
			t.Fatal("nothing was read")
		}
		var again []byte
		switch op.Code {
		case SetRow:
			again = AppendRow(nil, &op.Row)
		case DropRow:
			again = AppendDrop(nil, &op.Row)
		case SetStream:
			again = AppendStream(nil, &op.Stream)
		case Forget:
			again = AppendForget(nil, op.Stream.Stream)
		default:
			t.Fatalf("read operation %d, which nobody writes", op.Code)
		}
		op2, rest2, err := Read(again)
		if op.Old = false; err != nil || len(rest2) > 0 || !cmp.Equal(op2, op) {
			t.Fatalf("written again: %+v, %v; want %+v", op2, err, op)
		}
	})
}
