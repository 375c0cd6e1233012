// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"weft/agent/health"
	"weft/agent/sandbox"
	"weft/lb"
	"weft/overlay"
)

// readHealth reads the flag --health.
func (w *wish) readHealth(text string) error {
	check, err := health.Parse(text)
	w.health = &check
	return err
}

// firstHealth is what is known of the task when it is published.
func (w *wish) firstHealth() lb.Health {
	if w.health == nil {
		return lb.Unchecked
	}
	return lb.Unknown
}

// watch checks the task until ctx ends, and tells every VIP that it is behind, or its names where it is behind none.
func (r *running) watch(ctx context.Context, check health.Check) {
	var moved func(context.Context) netip.Addr
	if r.inHost {
		moved = func(ctx context.Context) netip.Addr { return r.moved(ctx, check.Timeout) }
	}
	health.Watch(ctx, health.Options{
		Check: check, Addr: r.addr, Moved: moved, NetNS: r.task.NetNS, Serving: Serving,
		Execute: func(ctx context.Context, command []string) error {
			exit, err := sandbox.Exec(ctx, sandbox.Target{PID: r.task.PID, StartTime: r.task.StartTime, Cgroup: r.task.Cgroup}, sandbox.Visit{Command: command})
			if err == nil && exit != (sandbox.Exit{}) {
				err = fmt.Errorf("status %d", exit.Status())
			}
			return err
		},
	}, func(s lb.State) {
		for _, b := range r.behind {
			if err := r.tell(ctx, b, s); err != nil && ctx.Err() == nil {
				fmt.Fprintf(r.out, "weft: %v\n", err)
			}
		}
		if ctx.Err() == nil {
			fmt.Fprintf(r.out, "weft: task %s is %s%s\n", r.id, s.Health, detail(s))
		}
	})
}

// moved returns where a task in its node's own network is now, nothing if the daemon is away for as long as a question may
// take.
func (r *running) moved(ctx context.Context, patience time.Duration) netip.Addr {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	endpoints, err := r.daemon.Overlay.Endpoints(ctx)
	i := slices.IndexFunc(endpoints, func(e overlay.Endpoint) bool { return e.ID == r.id })
	if err != nil || i < 0 || len(endpoints[i].Addrs()) == 0 {
		return netip.Addr{}
	}
	return endpoints[i].Addrs()[0]
}

// tell says in one network how the task is.
func (r *running) tell(ctx context.Context, b behind, s lb.State) error {
	ctx, cancel := context.WithTimeout(ctx, b.wait+callTimeout)
	defer cancel()
	if b.name != nil {
		name := *b.name
		name.Unwell = s.Health != lb.Healthy
		return r.daemon.Discovery.Announce(ctx, name)
	}
	_, err := r.daemon.LB.SetState(ctx, b.id, s)
	return err
}

func detail(s lb.State) string {
	if s.Detail == "" {
		return ""
	}
	return ": " + s.Detail
}

// Serving asks the health service of a gRPC server (grpc.health.v1).
func Serving(ctx context.Context, dial health.Dial, addr, service string) error {
	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return dial(ctx, "tcp", addr) }))
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // nothing was written that could be lost
	answer, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		s := status.Convert(err)
		return fmt.Errorf("%s: %s", s.Code(), s.Message())
	}
	if answer.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("status %s", answer.GetStatus())
	}
	return nil
}
