// SPDX-License-Identifier: Apache-2.0

// Package wire carries errors over gRPC: what errors.Is and Error tell on one side, they tell on the other.
package wire

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Sentinel is an error that callers ask for by errors.Is, and the status code that stands for it.
type Sentinel struct {
	Err  error
	Code codes.Code
}

// Errors is how the errors of one service travel. Of several sentinels in one error the first counts;
// those of context are known to every service.
type Errors struct {
	Peer      string // who answers, as users call it: "the node daemon"
	Sentinels []Sentinel
}

// ofContext is what every service may return.
var ofContext = []Sentinel{
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

// Status returns a non-nil error as a server answers it; its text travels as it is.
func (e Errors) Status(err error) error {
	for _, list := range [][]Sentinel{e.Sentinels, ofContext} {
		for _, s := range list {
			if errors.Is(err, s.Err) {
				return status.Error(s.Code, err.Error())
			}
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// Error returns the error that Status was given, as far as errors.Is and Error tell, and nil for nil.
func (e Errors) Error(err error) error {
	if err == nil {
		return nil
	}
	answer := status.Convert(err)
	if why, failed := Unreached(answer.Message()); failed && (answer.Code() == codes.Unavailable || answer.Code() == codes.DeadlineExceeded) {
		if answer.Code() == codes.DeadlineExceeded {
			err = context.DeadlineExceeded
		}
		return &remote{text: fmt.Sprintf("%s does not answer: %s", e.Peer, why), is: err}
	}
	for _, list := range [][]Sentinel{e.Sentinels, ofContext} {
		for _, s := range list {
			if answer.Code() == s.Code {
				return &remote{text: answer.Message(), is: s.Err}
			}
		}
	}
	if answer.Code() == codes.Unavailable {
		return &remote{text: fmt.Sprintf("%s does not answer: %s", e.Peer, answer.Message()), is: err}
	}
	return &remote{text: answer.Message(), is: err}
}

// unreached is how gRPC says that a connection could not be made: once it gave up, or while it still tried.
var unreached = regexp.MustCompile(`^(?:latest balancer error: )?connection error: desc = ("transport: .*")$`)

// Unreached returns why a connection was not made, without gRPC's own words around it, and whether a text says that at all.
func Unreached(text string) (why string, ok bool) {
	m := unreached.FindStringSubmatch(text)
	if m == nil {
		return text, false
	}
	why, err := strconv.Unquote(m[1])
	if err != nil {
		return text, false
	}
	why = strings.TrimPrefix(why, "transport: ")
	return strings.TrimPrefix(why, "Error while dialing: "), true
}

// remote is an error that came over the wire.
type remote struct {
	text string
	is   error
}

func (r *remote) Error() string { return r.text }
func (r *remote) Unwrap() error { return r.is }

// Sooner ends a little before the client's deadline, so that the client still hears what was being
// waited for.
func Sooner(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	early := min(time.Until(deadline)/10, 500*time.Millisecond) // to be scheduled takes both some time on a busy node
	return context.WithDeadline(ctx, deadline.Add(-early))
}
