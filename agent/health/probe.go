// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"weft/lb"
)

// Dial connects from inside a task's network namespace.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Options say who is asked.
type Options struct {
	Check Check
	Addr  netip.Addr // the task's, in its own namespace
	// Moved returns the task's address now, as who knows it last said; it is asked when a question failed. nil: the task
	// keeps the one that it has.
	Moved func(ctx context.Context) netip.Addr
	NetNS string // path of that namespace
	// Execute runs a command in the task; an error is a status other than 0. Needed by command checks.
	Execute func(ctx context.Context, command []string) error
	// Serving asks grpc.health.v1.Health at addr for a service. Needed by gRPC checks.
	Serving func(ctx context.Context, dial Dial, addr, service string) error
}

// Watch asks until ctx ends, and calls tell whenever the health changes. The first question comes at once.
func Watch(ctx context.Context, o Options, tell func(lb.State)) {
	v := newVerdict(o.Check, time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		answer := follow(ctx, &o)
		if ctx.Err() != nil {
			return // what failed is the question
		}
		if v.take(time.Now(), answer) {
			tell(v.state)
		}
		timer.Reset(v.pause())
	}
}

// follow asks, and once more where the task is if it has another address by now.
func follow(ctx context.Context, o *Options) error {
	answer := Ask(ctx, *o)
	if answer == nil || o.Moved == nil || o.Check.Kind == Command {
		return answer
	}
	now := o.Moved(ctx)
	if !now.IsValid() || now == o.Addr {
		return answer
	}
	o.Addr = now
	return Ask(ctx, *o)
}

// Ask asks once, no longer than the check's timeout; nil: it is fine.
func Ask(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, o.Check.Timeout)
	defer cancel()
	err := o.ask(ctx, netip.AddrPortFrom(o.Addr, o.Check.Port).String())
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no answer within %s", o.Check.Timeout)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o.subject(), err)
	}
	return nil
}

func (o Options) subject() string {
	if o.Check.Kind == Command {
		return "command " + strings.Join(o.Check.Command, " ")
	}
	return fmt.Sprintf("%s %s", o.Check.Kind, netip.AddrPortFrom(o.Addr, o.Check.Port))
}

func (o Options) ask(ctx context.Context, addr string) error {
	switch o.Check.Kind {
	case TCP:
		conn, err := o.dial(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	case HTTP, HTTPS:
		return o.get(ctx, string(o.Check.Kind)+"://"+addr+o.Check.Path)
	case GRPC:
		return o.Serving(ctx, o.dial, addr, o.Check.Service)
	case Command:
		return o.Execute(ctx, o.Check.Command)
	default:
		return fmt.Errorf("checks of kind %q are not known", o.Check.Kind)
	}
}

func (o Options) get(ctx context.Context, url string) error {
	transport := &http.Transport{
		DialContext: o.dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // asked is whether it answers, at an address that is in no certificate
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "weft-health")
	answer, err := client.Do(request)
	if err != nil {
		return errors.Unwrap(err) // without method and URL, which are told already
	}
	if answer.StatusCode < 200 || answer.StatusCode > 399 {
		err = fmt.Errorf("status %d", answer.StatusCode)
	}
	return errors.Join(err, answer.Body.Close())
}

// dial makes the socket on a thread that is in the task's namespace, where it stays. The thread ends with its
// goroutine if it can't go back.
func (o Options) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		conn, back, err := o.dialHere(ctx, network, addr)
		if back {
			runtime.UnlockOSThread()
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

func (o Options) dialHere(ctx context.Context, network, addr string) (conn net.Conn, back bool, err error) {
	home, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, true, fmt.Errorf("remember the own namespace: %w", err)
	}
	defer unix.Close(home) //nolint:errcheck // read only
	there, err := unix.Open(o.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, true, fmt.Errorf("open the task's namespace: %w", err)
	}
	defer unix.Close(there) //nolint:errcheck // read only
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return nil, true, fmt.Errorf("enter the task's namespace: %w", err)
	}
	// One literal address: the dialer stays on this thread (net.Dialer runs addresses side by side only when
	// there are several).
	conn, err = new(net.Dialer).DialContext(ctx, network, addr)
	return conn, unix.Setns(home, unix.CLONE_NEWNET) == nil, cause(err)
}

// cause leaves out what the subject of an answer says already.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
