// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
)

// Variables that programs read while they run. A load begins with zero in all of them.
const (
	tracingSwitch    = "tracing"     // lib/trace.h
	takingOverSwitch = "taking_over" // lib/takeover.h
)

// Values of takingOverSwitch.
const (
	takeoverNone uint32 = iota
	takeoverWaits
	takeoverTrusts
)

// SetTracing says whether the programs look into Tables.Traces for what to report whole. Off, which is
// how they begin, a packet pays one load for it.
func (p *Plane) SetTracing(on bool) error {
	var value uint32
	if on {
		value = 1
	}
	return p.set(tracingSwitch, value)
}

// set writes a variable of every object that has it, one right after the other.
func (p *Plane) set(name string, value uint32) error {
	var errs []error
	for _, v := range p.switches[name] {
		errs = append(errs, v.Set(value))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("switch %s: %w", name, err)
	}
	return nil
}
