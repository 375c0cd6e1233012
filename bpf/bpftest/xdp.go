// SPDX-License-Identifier: Apache-2.0

package bpftest

import (
	"fmt"

	"github.com/cilium/ebpf"

	"weft/bpf/row"
)

// XDP is what an XDP program says of a frame.
type XDP uint32

// Values of XDP.
const (
	XDPDrop     XDP = 1
	XDPPass     XDP = 2
	XDPTX       XDP = 3
	XDPRedirect XDP = 4
)

// String names the action.
func (x XDP) String() string {
	names := map[XDP]string{XDPDrop: "drop", XDPPass: "pass", XDPTX: "tx", XDPRedirect: "redirect"}
	if name, ok := names[x]; ok {
		return name
	}
	return fmt.Sprintf("xdp_%d", uint32(x))
}

// XDPResult is what came of a frame.
type XDPResult struct {
	Action XDP
	Out    []byte // the frame as the program left it
}

// RunXDP runs an XDP program on a frame, as met on the loopback. Frames may have any length from 14.
func (s *Set) RunXDP(program string, frame []byte) (XDPResult, error) {
	p, ok := s.Programs[program]
	if !ok {
		return XDPResult{}, fmt.Errorf("no program %s", program)
	}
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	action, err := p.Run(opts)
	return XDPResult{Action: XDP(action), Out: opts.DataOut}, err
}

// RunUncounted is Run for a program that leaves what is not its own uncounted; the result has no reason.
func (s *Set) RunUncounted(program string, frame []byte, m Meta) (Result, error) {
	return s.run(program, frame, m)
}

// Moved returns the reasons whose counters moved since it was asked last, with by how many packets.
func (s *Set) Moved() (map[row.Reason]uint64, error) {
	all, err := s.packets()
	if err != nil {
		return nil, err
	}
	moved := make(map[row.Reason]uint64)
	for i, packets := range all {
		reason := row.Reason(i)
		if more := packets - s.counted[reason]; more != 0 {
			moved[reason] = more
			s.counted[reason] = packets
		}
	}
	return moved, nil
}

// MovedBy returns by how many packets the counter of one reason moved since it was asked last.
func (s *Set) MovedBy(reason row.Reason) (uint64, error) {
	c, err := s.Counter(reason)
	more := c.Packets - s.counted[reason]
	s.counted[reason] = c.Packets
	return more, err
}
