// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weft/discovery"
	"weft/discovery/discoverypb"
	"weft/lb"
	"weft/lb/lbpb"
	"weft/overlay"
	"weft/overlay/overlaypb"
)

const (
	// callTimeout bounds a verb. ADD may wait for a master; runtimes wait longer than this.
	callTimeout = 30 * time.Second
	undoTimeout = 10 * time.Second
)

// run is the plugin: one verb per process, from environment and standard input to standard output
// (CNI 1.1, section 2).
func run() int {
	supported := cniversion.PluginSupports("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    verb((*plugin).add, types.ErrTryAgainLater),
		Check:  verb((*plugin).check, types.ErrTryAgainLater),
		Del:    verb((*plugin).del, types.ErrTryAgainLater),
		GC:     verb((*plugin).collect, types.ErrTryAgainLater),
		Status: verb((*plugin).status, types.ErrPluginNotAvailable),
	}, supported, "weft-cni "+version)
	if err == nil {
		return 0
	}
	if printErr := err.Print(); printErr != nil {
		fmt.Fprintln(os.Stderr, err, printErr)
	}
	return 1
}

// plugin is one call of one verb.
type plugin struct {
	config

	overlay   overlay.Service
	lb        lb.Service
	discovery discovery.Service
}

// verb makes what skel calls: it reads the configuration, connects, and gives errors their codes. Away
// is the code for a daemon that does not answer.
func verb(f func(*plugin, context.Context) error, away uint) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		conf, err := parse(args)
		if err != nil {
			return types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
		}
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		conn, err := dial(ctx, conf.Socket)
		if err != nil {
			return types.NewError(away, "the node daemon does not answer at "+conf.Socket+"; is weft netd running?", err.Error())
		}
		defer conn.Close() //nolint:errcheck // every call on it has ended
		p := &plugin{
			config: conf, overlay: overlaypb.NewClient(conn), lb: lbpb.NewClient(conn), discovery: discoverypb.NewClient(conn),
		}
		if err := f(p, ctx); err != nil {
			return coded(err)
		}
		return nil
	}
}

// dial connects to the node daemon, and tells at once when it is not there.
func dial(ctx context.Context, socket string) (*grpc.ClientConn, error) {
	first, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	if err := first.Close(); err != nil {
		return nil, err
	}
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// codes is what errors are to a runtime: whether it is worth trying again, and who can mend it.
var codes = []struct {
	err  error
	code uint
}{
	{overlay.ErrInvalid, types.ErrInvalidNetworkConfig},
	{lb.ErrInvalid, types.ErrInvalidNetworkConfig},
	{discovery.ErrInvalid, types.ErrInvalidNetworkConfig},
	{overlay.ErrNotFound, types.ErrInvalidNetworkConfig},
	{lb.ErrNotFound, types.ErrInvalidNetworkConfig},
	{overlay.ErrExhausted, types.ErrTryAgainLater},
	{context.DeadlineExceeded, types.ErrTryAgainLater},
}

func coded(err error) error {
	if _, already := errors.AsType[*types.Error](err); already {
		return err
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return types.NewError(c.code, err.Error(), "")
		}
	}
	return types.NewError(types.ErrInternal, err.Error(), "")
}
