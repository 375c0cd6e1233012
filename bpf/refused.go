// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
)

// logLines is how many of the verifier's last lines an error shows; enough to hold the refused
// instruction, its source line and the state before it.
const logLines = 6

// RefusedError is a program or map that the kernel did not take. As %v it shows the verifier's last lines,
// as %+v all of them.
type RefusedError struct {
	Object string // "program from_workload", "map endpoints"
	Err    error
}

// Error implements error.
func (r *RefusedError) Error() string {
	verifier, ok := errors.AsType[*ebpf.VerifierError](r.Err)
	if !ok {
		return r.Object + ": " + r.Err.Error()
	}
	log := verifier.Log
	// "processed 812 insns (limit 1000000) ..." tells nothing about the cause.
	if n := len(log); n > 0 && strings.HasPrefix(log[n-1], "processed ") {
		log = log[:n-1]
	}
	// Linux 7.3 explains a refusal at length; its first line is enough beside the classic ones.
	explained := slices.IndexFunc(log, func(line string) bool { return strings.HasPrefix(line, "Verification failed: ") })
	if explained > 0 {
		log = append(slices.Clone(log[:explained-1]), log[explained])
	}
	omitted := max(0, len(log)-logLines)
	lines := []string{fmt.Sprintf("%s: %s", r.Object, verifier.Cause)}
	if omitted > 0 {
		lines = append(lines, fmt.Sprintf("(%d lines before)", omitted))
	}
	return strings.Join(append(lines, log[omitted:]...), "\n\t")
}

// Unwrap implements errors.Is and errors.As.
func (r *RefusedError) Unwrap() error { return r.Err }

// Format implements fmt.Formatter.
func (r *RefusedError) Format(f fmt.State, verb rune) {
	verifier, ok := errors.AsType[*ebpf.VerifierError](r.Err)
	if !ok || verb != 'v' || !f.Flag('+') {
		_, _ = io.WriteString(f, r.Error()) // a fmt.State keeps its own error
		return
	}
	_, _ = fmt.Fprintf(f, "%s: %+v", r.Object, verifier)
}
