// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// instructions counts those that this thread retires in the kernel. Nil counts none.
type instructions struct{ fd int }

func openInstructions() (*instructions, error) {
	runtime.LockOSThread() // the counter is this thread's
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS,
		Bits: unix.PerfBitExcludeUser | unix.PerfBitExcludeHv,
	}
	attr.Size = uint32(unsafe.Sizeof(attr))
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open counter: %w", err)
	}
	return &instructions{fd: fd}, nil
}

func (c *instructions) close() {
	if c != nil {
		_ = unix.Close(c.fd)
	}
}

func (c *instructions) read() (float64, error) {
	if c == nil {
		return math.NaN(), nil
	}
	var b [8]byte
	if _, err := unix.Read(c.fd, b[:]); err != nil {
		return 0, fmt.Errorf("read counter: %w", err)
	}
	return float64(binary.NativeEndian.Uint64(b[:])), nil
}

// measure has run go over the frame; it returns nanoseconds and instructions per packet.
func (c *instructions) measure(run func([]byte, int) (float64, error), frame []byte, repeat int) (ns, count float64, err error) {
	before, err := c.read()
	if err != nil {
		return 0, 0, err
	}
	if ns, err = run(frame, repeat); err != nil {
		return 0, 0, fmt.Errorf("run: %w", err)
	}
	after, err := c.read()
	return ns, (after - before) / float64(repeat), err
}
