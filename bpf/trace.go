// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
)

// tracingVariable is lib/trace.h's.
const tracingVariable = "tracing"

// SetTracing says whether the programs look into Tables.Traces for what to report whole. Off, which is
// how they begin, a packet pays one load for it.
func (p *Plane) SetTracing(on bool) error {
	var value uint32
	if on {
		value = 1
	}
	var errs []error
	for _, v := range p.tracing {
		errs = append(errs, v.Set(value))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("switch tracing: %w", err)
	}
	return nil
}
