// SPDX-License-Identifier: Apache-2.0

package health

import (
	"time"

	"weft/lb"
)

// verdict is what the answers so far come to.
//
//	           Healthy successes in a row
//	unknown ------------------------------> healthy
//	   |                                     ^   |
//	   | after Grace, Unhealthy              |   | Unhealthy failures in a row
//	   | failures in a row                   |   v
//	   '-----------------------------------> unhealthy
type verdict struct {
	check   Check
	started time.Time
	state   lb.State

	good, bad int // in a row
}

func newVerdict(c Check, now time.Time) *verdict {
	return &verdict{check: c, started: now, state: lb.State{Health: lb.Unknown}}
}

// take counts an answer, nil for a good one, and tells whether the health changed.
func (v *verdict) take(now time.Time, answer error) bool {
	before := v.state.Health
	if answer == nil {
		v.good, v.bad = v.good+1, 0
		if v.good >= v.check.Healthy {
			v.state = lb.State{Health: lb.Healthy}
		}
		return v.state.Health != before
	}
	v.good = 0
	if before == lb.Unknown && now.Sub(v.started) < v.check.Grace {
		return false
	}
	if v.bad++; v.bad >= v.check.Unhealthy && before != lb.Unhealthy {
		detail := answer.Error()
		v.state = lb.State{Health: lb.Unhealthy, Detail: detail[:min(len(detail), lb.MaxDetail)]}
	}
	return v.state.Health != before
}

// pause is how long to wait before the next question. A task that starts is asked often, to be in as soon as
// it can be.
func (v *verdict) pause() time.Duration {
	if v.state.Health == lb.Unknown {
		return min(v.check.Interval, eager)
	}
	return v.check.Interval
}

const eager = 100 * time.Millisecond
