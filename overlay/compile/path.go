// SPDX-License-Identifier: Apache-2.0

package compile

import "weft/overlay"

// SmallestPath is what every path is taken to carry: IPv6's least (RFC 8200 section 5) for tasks, in a tunnel
// over IPv6.
const SmallestPath = 1280 + overlay.Overhead6

// Path is what is known of the way to a node.
type Path struct {
	MTU    int  // largest IP packet that arrives, bytes; 0: not known
	Second bool // by the second port of tunnels: the first one's frames don't arrive
}

// FindPath returns the largest IP packet, up to most bytes, that fits says a path carries; 0 when it does not
// even carry small ones, so that nothing is known. It asks first what is likely: all, then the sizes of
// common tunnels and lines, then by halves.
func FindPath(most int, fits func(size int) (bool, error)) (int, error) {
	if ok, err := fits(most); ok || err != nil {
		return most, err
	}
	least := min(SmallestPath, most)
	if ok, err := fits(least); !ok || err != nil {
		return 0, err
	}
	good, bad := least, most
	for _, size := range []int{8950, 1500, 1492, 1450, 1400} {
		if size <= good || size >= bad {
			continue
		}
		ok, err := fits(size)
		if err != nil {
			return 0, err
		}
		if ok {
			good = size
			break
		}
		bad = size
	}
	for bad-good > 1 {
		size := good + (bad-good)/2
		ok, err := fits(size)
		if err != nil {
			return 0, err
		}
		if ok {
			good = size
		} else {
			bad = size
		}
	}
	return good, nil
}
