// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumpTries bounds how often an interrupted dump is asked for again: other changes to the same table
// interrupt it, and those end.
const dumpTries = 16

// retryDump reads a list that the kernel gives in pieces until it comes in one.
func retryDump[T any](dump func() ([]T, error)) (list []T, err error) {
	for range dumpTries {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}
