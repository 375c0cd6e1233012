// SPDX-License-Identifier: Apache-2.0

// Package node is the part of the command line that talks to the daemon of this node: tasks, VIPs
// and names as they are here, and why packets pass or don't. What it prints comes from the daemon;
// it decides nothing.
package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"weft/discovery"
	"weft/discovery/discoverypb"
	"weft/lb"
	"weft/lb/lbpb"
	"weft/overlay"
	"weft/overlay/overlaypb"
)

// DefaultSocket is where the node daemon answers.
const DefaultSocket = "/run/weft/netd.sock"

// callTimeout bounds one question to the daemon; Attach and Publish may wait for a master.
const callTimeout = 15 * time.Second

// Env is what the commands need of the process they run in.
type Env struct {
	Stdin, Stdout, Stderr *os.File // tasks get them as they are

	Getenv func(string) string
}

// Daemon is a connection to the node daemon.
type Daemon struct {
	Overlay   overlay.Service
	LB        lb.Service
	Discovery discovery.Service
	Published lbpb.Published
	conn      *grpc.ClientConn
}

// Dial connects to the daemon behind socket. A call fails at once when the daemon is not there.
func Dial(socket string) (*Daemon, error) { return dial(socket) }

// DialPatient is Dial for who outlives the daemon: calls wait for one that is away, until their context ends.
func DialPatient(socket string) (*Daemon, error) { return dial(socket, patient()...) }

func dial(socket string, more ...grpc.DialOption) (*Daemon, error) {
	if _, err := os.Stat(socket); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("no node daemon at %s: start `weft netd`, or name its socket by --socket or WEFT_SOCKET", socket)
	}
	conn, err := grpc.NewClient("unix:"+socket, append(more, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	return &Daemon{
		Overlay:   overlaypb.NewClient(conn),
		LB:        lbpb.NewClient(conn),
		Discovery: discoverypb.NewClient(conn),
		Published: lbpb.NewPublished(conn),
		conn:      conn,
	}, nil
}

// patient makes calls wait, as long as their context allows, for a daemon that is away, and ask it
// again when it ended in the middle: it may be restarted at any moment, and every method may be
// called twice.
func patient() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultServiceConfig(`{"methodConfig": [{
			"name": [{}],
			"waitForReady": true,
			"retryPolicy": {
				"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
				"retryableStatusCodes": ["UNAVAILABLE"]
			}
		}]}`),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
		}),
	}
}

// Close ends the connection.
func (d *Daemon) Close() error { return d.conn.Close() }

// Commands returns the commands of this package; `weft vip` gets vip besides, for operators.
func Commands(env Env, vip ...*cobra.Command) []*cobra.Command {
	c := &client{env: env}
	return []*cobra.Command{c.run(), c.task(), c.vip(vip), c.name(), c.dns(), c.why(), c.trace(), c.flows(), c.doctor()}
}

// client holds what all commands share.
type client struct {
	env    Env
	socket string
}

// command finishes a cobra command with the flags that all have; f gets a daemon, connected by how.
func (c *client) command(cmd *cobra.Command, f func(ctx context.Context, d *Daemon, args []string) error, how ...grpc.DialOption) *cobra.Command {
	c.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := dial(c.socket, how...)
		if err != nil {
			return err
		}
		return errors.Join(f(cmd.Context(), d, args), d.Close())
	}
	return cmd
}

func (c *client) flags(cmd *cobra.Command) {
	socket := c.env.Getenv("WEFT_SOCKET")
	if socket == "" {
		socket = DefaultSocket
	}
	cmd.Flags().StringVar(&c.socket, "socket", socket, "socket of the node daemon (WEFT_SOCKET)")
}

// find returns the endpoint of a task by id, name or the beginning of an id.
func find(ctx context.Context, d *Daemon, task string) (overlay.Endpoint, error) {
	endpoints, err := d.Overlay.Endpoints(ctx)
	if err != nil {
		return overlay.Endpoint{}, err
	}
	var found []overlay.Endpoint
	var names []string
	for _, e := range endpoints {
		if e.Task == task {
			return e, nil
		}
		known := slices.Contains(names, e.Task) // by an earlier network of its
		if !known && (e.Name == task || strings.HasPrefix(e.Task, task)) {
			found = append(found, e)
			names = append(names, e.Task)
		}
	}
	switch len(found) {
	case 0:
		return overlay.Endpoint{}, fmt.Errorf("no task %q on this node: `weft task list` shows them", task)
	case 1:
		return found[0], nil
	default:
		return overlay.Endpoint{}, fmt.Errorf("%q is more than one task: %s; give the whole id", task, strings.Join(names, ", "))
	}
}
