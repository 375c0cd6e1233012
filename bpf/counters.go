// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"

	"weft/bpf/row"
)

// Counters returns how many packets left the programs for each reason, over all CPUs, since the maps
// were made (not since this process started). Reasons that never came are left out.
func (p *Plane) Counters() (map[row.Reason]row.Counter, error) {
	counters := make(map[row.Reason]row.Counter)
	var perCPU []row.Counter
	for reason := range row.ReasonMax {
		if err := p.maps["counters"].Lookup(uint32(reason), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", reason, err)
		}
		var sum row.Counter
		for _, c := range perCPU {
			sum.Packets += c.Packets
			sum.Bytes += c.Bytes
		}
		if sum.Packets > 0 {
			counters[reason] = sum
		}
	}
	return counters, nil
}
