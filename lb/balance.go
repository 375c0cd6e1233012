// SPDX-License-Identifier: Apache-2.0

package lb

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Policy is how a VIP chooses among its backends.
type Policy string

// Policies. LeastLatency is the default.
const (
	LeastLatency     Policy = "least-latency"     // least (connections + 1) x latency of 2 to 4 drawn
	LeastConnections Policy = "least-connections" // fewest connections of this node, of 4 drawn
	RoundRobin       Policy = "round-robin"
	Random           Policy = "random"
	// Maglev is by a hash of the client's address and, without affinity, its port: on every node the same.
	Maglev Policy = "maglev"
)

// Preference is which backends are asked first, as long as they are willing and not slow.
type Preference string

// Preferences. Anywhere is the default.
const (
	Anywhere Preference = ""
	SameNode Preference = "node"
	SameZone Preference = "zone"
)

// Limits of what labels may ask.
const (
	MaxWeight   = 1000
	MaxAffinity = 18 * time.Hour // a row counts seconds in 16 bits
	MinWait     = 10 * time.Millisecond
	MaxWait     = time.Minute
)

// Balance is how the connections of a VIP are spread. It is part of a backend's row; of backends of
// one VIP that disagree, the first by node and task decides.
type Balance struct {
	Policy   Policy        `json:"policy,omitempty"`
	Affinity time.Duration `json:"affinity,omitempty"` // a client stays at its backend until it paused so long
	Prefer   Preference    `json:"prefer,omitempty"`
}

// readOptions reads what follows the task's port in a label: weight=3,policy=random,affinity=10m,prefer=zone.
func readOptions(l *Label, texts []string) error {
	seen := make(map[string]bool)
	for _, text := range texts {
		key, value, _ := strings.Cut(text, "=")
		if seen[key] {
			return fmt.Errorf("option %s is given twice", key)
		}
		seen[key] = true
		if err := readOption(l, key, value); err != nil {
			return fmt.Errorf("option %q: %w", text, err)
		}
	}
	return nil
}

func readOption(l *Label, key, value string) error {
	switch key {
	case "weight":
		n, err := strconv.ParseUint(value, 10, 16)
		if err != nil || n > MaxWeight {
			return fmt.Errorf("a weight of 0 (draining) to %d is allowed", MaxWeight)
		}
		l.Weight = uint16(n)
	case "policy":
		l.Balance.Policy = Policy(value)
		if !slices.Contains([]Policy{LeastLatency, LeastConnections, RoundRobin, Random, Maglev}, l.Balance.Policy) {
			return fmt.Errorf("allowed are %s, %s, %s, %s and %s", LeastLatency, LeastConnections, RoundRobin, Random, Maglev)
		}
	case "affinity":
		d, err := time.ParseDuration(value)
		if err != nil || d < time.Second || d > MaxAffinity || d%time.Second != 0 {
			return fmt.Errorf("whole seconds from 1s to %s are allowed, such as 10m", MaxAffinity)
		}
		l.Balance.Affinity = d
	case "prefer":
		l.Balance.Prefer = Preference(value)
		if l.Balance.Prefer != SameNode && l.Balance.Prefer != SameZone {
			return fmt.Errorf("allowed are %s and %s", SameNode, SameZone)
		}
	case "wait":
		d, err := time.ParseDuration(value)
		if err != nil || d < MinWait || d > MaxWait {
			return fmt.Errorf("%s to %s are allowed, such as 5s", MinWait, MaxWait)
		}
		l.Wait = d
	default:
		return errors.New("allowed are weight, policy, affinity, prefer and wait")
	}
	return nil
}
