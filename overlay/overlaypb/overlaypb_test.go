// SPDX-License-Identifier: Apache-2.0

package overlaypb_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"weft/overlay"
	"weft/overlay/fake"
	"weft/overlay/overlaypb"
	"weft/overlay/servicetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect serves s and returns a client of it.
func connect(t *testing.T, s overlay.Service) overlay.Service {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	overlaypb.Register(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///weft",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return overlaypb.NewClient(conn)
}

func TestContract(t *testing.T) {
	servicetest.RunContract(t, func(t *testing.T) servicetest.Node {
		t.Helper()
		s := fake.New(fake.Options{Networks: servicetest.Networks(), Groups: servicetest.Groups(), Rules: servicetest.Rules()})
		return servicetest.Node{Service: connect(t, s), Drop: func() { servicetest.Report(s) }}
	})
}

// refusing answers everything with one error.
type refusing struct{ err error }

func (r refusing) Attach(context.Context, overlay.Attachment) (overlay.Endpoint, error) {
	return overlay.Endpoint{}, r.err
}
func (r refusing) Detach(context.Context, string) error                      { return r.err }
func (r refusing) Endpoints(context.Context) ([]overlay.Endpoint, error)     { return nil, r.err }
func (r refusing) Networks(context.Context) ([]overlay.NetworkStatus, error) { return nil, r.err }
func (r refusing) Explain(context.Context, overlay.Question) (overlay.Verdict, error) {
	return overlay.Verdict{}, r.err
}

func (r refusing) Events(context.Context, overlay.Filter, func(overlay.Event) error) error {
	return r.err
}

func TestErrorsKeepTheirTextAndKind(t *testing.T) {
	for _, sentinel := range []error{
		overlay.ErrInvalid, overlay.ErrNotFound, overlay.ErrConflict, overlay.ErrExhausted, context.DeadlineExceeded, context.Canceled, nil,
	} {
		want := errors.New("task web: broken")
		if sentinel != nil {
			want = errors.Join(errors.New("task web"), sentinel)
		}
		s := connect(t, refusing{want})
		_, attach := s.Attach(t.Context(), overlay.Attachment{})
		_, endpoints := s.Endpoints(t.Context())
		_, networks := s.Networks(t.Context())
		_, explain := s.Explain(t.Context(), overlay.Question{})
		events := s.Events(t.Context(), overlay.Filter{}, func(overlay.Event) error { return nil })
		for _, got := range []error{attach, s.Detach(t.Context(), "a"), endpoints, networks, explain, events} {
			if got == nil || got.Error() != want.Error() || sentinel != nil && !errors.Is(got, sentinel) {
				t.Errorf("got %v, want %v", got, want)
			}
		}
	}
}

// waiting answers when its context ends, with what it waited for.
type waiting struct{ refusing }

func (waiting) Attach(ctx context.Context, _ overlay.Attachment) (overlay.Endpoint, error) {
	<-ctx.Done()
	return overlay.Endpoint{}, errors.Join(errors.New("no master gave a block"), ctx.Err())
}

func TestADeadlineTellsWhatWasWaitedFor(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // a tenth of it is for the answer
	defer cancel()
	_, err := connect(t, waiting{}).Attach(ctx, overlay.Attachment{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no master gave a block") {
		t.Errorf("got %v, want DeadlineExceeded and what was waited for", err)
	}
}

func TestADaemonThatDoesNotAnswer(t *testing.T) {
	conn, err := grpc.NewClient("unix:"+t.TempDir()+"/none.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := overlaypb.NewClient(conn).Detach(t.Context(), "web.1"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v, want that the daemon does not answer", err)
	}
}
