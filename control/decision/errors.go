// SPDX-License-Identifier: Apache-2.0

package decision

import (
	"errors"

	"weft/control"
	"weft/control/ledger"
	"weft/lb"
	"weft/overlay"
)

// AsControl gives errors of other rooms the sentinels of control.
func AsControl(err error) error {
	for _, same := range []struct{ from, to error }{
		{overlay.ErrInvalid, control.ErrInvalid},
		{lb.ErrInvalid, control.ErrInvalid},
		{overlay.ErrConflict, control.ErrExists},
		{overlay.ErrExhausted, control.ErrInUse},
		{ledger.ErrUnavailable, control.ErrUnavailable},
		{ledger.ErrClosed, control.ErrUnavailable},
	} {
		if errors.Is(err, same.from) && !errors.Is(err, same.to) {
			return sentinelError{err, same.to}
		}
	}
	return err
}

// sentinelError is an error that is a second sentinel too; the text stays.
type sentinelError struct {
	error
	as error
}

// Unwrap implements the errors package's trees.
func (e sentinelError) Unwrap() []error { return []error{e.error, e.as} }
