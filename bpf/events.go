// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf/ringbuf"

	"weft/bpf/row"
)

// Events hands every event to emit until ctx ends (nil is returned then) or emit fails. The kernel
// keeps what nobody reads, up to the ring's size: the first events may be of before the call, their
// Time says. One reader at a time per node: two would share the events between them.
func (p *Plane) Events(ctx context.Context, emit func(row.Event) error) (err error) {
	ring, err := ringbuf.NewReader(p.maps["events"])
	if err != nil {
		return fmt.Errorf("open event ring: %w", err)
	}
	defer func() {
		if cerr := ring.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}()
	// Flush wakes a waiting Read, which then says so behind the last event that is there.
	stop := context.AfterFunc(ctx, func() { _ = ring.Flush() })
	defer stop()
	var record ringbuf.Record
	var event row.Event
	for ctx.Err() == nil {
		err := ring.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrFlushed) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read event ring: %w", err)
		}
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &event); err != nil {
			return fmt.Errorf("event of %d bytes: %w", len(record.RawSample), err)
		}
		if err := emit(event); err != nil {
			return err
		}
	}
	return nil
}
