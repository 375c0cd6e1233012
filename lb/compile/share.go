// SPDX-License-Identifier: Apache-2.0

package compile

import "weft/bpf/row"

// wholeShare is the share of a slot that stands for itself alone.
const wholeShare = 1<<16 - 1

// weigh returns the sum of the weights and whether they differ.
func weigh(slots []row.Backend) (sum uint64, differ bool) {
	for _, b := range slots {
		sum += uint64(b.Weight)
		differ = differ || b.Weight != slots[0].Weight
	}
	return sum, differ
}

// share sets Share and Other of the slots, the first of which is slot first, so that one drawn at
// random comes to each backend by its weight. A slot whose backend weighs less than the mean gives
// the rest of its draws to one that weighs more (Vose 1991, in integers: weights are counted in
// parts of the sum, of which each slot holds as many as the mean).
func share(slots []row.Backend, first int) {
	sum, _ := weigh(slots)
	count := uint64(len(slots))
	left := make([]uint64, len(slots)) // what is not placed yet, in units of weight x count; a slot holds sum
	var less, more []int
	for i, b := range slots {
		left[i] = uint64(b.Weight) * count
		if left[i] < sum {
			less = append(less, i)
		} else {
			more = append(more, i)
		}
	}
	for len(less) > 0 && len(more) > 0 {
		small, large := less[len(less)-1], more[len(more)-1]
		less = less[:len(less)-1]
		slots[small].Share, slots[small].Other = uint16(left[small]*wholeShare/sum), uint16(first+large)
		left[large] -= sum - left[small]
		if left[large] < sum {
			more = more[:len(more)-1]
			less = append(less, large)
		}
	}
	for _, i := range append(less, more...) { // as much as a slot holds
		slots[i].Share, slots[i].Other = wholeShare, uint16(first+i)
	}
}
