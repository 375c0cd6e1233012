// SPDX-License-Identifier: Apache-2.0

// Package master wires a master, by hand, top to bottom in the order in which later parts need
// earlier ones. What each part does is its room's.
package master

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials"

	"weft/cmd/weft/process"
	"weft/control/compat"
	"weft/control/controlpb"
	"weft/control/ledger"
	controlmaster "weft/control/master"
	"weft/discovery"
	"weft/discovery/discoverypb"
	"weft/discovery/gossip"
	"weft/discovery/peers"
	"weft/discovery/state"
	"weft/discovery/wire"
)

// daemon is a master with all its parts.
type daemon struct {
	o      Options
	log    *slog.Logger
	store  *state.Store
	gossip *gossip.Gossip
	syncer *discoverypb.Syncer
	peers  *peers.Peers // the other masters
	master *controlmaster.Master
	secret string
	ready  atomic.Pointer[time.Time]        // when a majority of the masters had come together
	wire   credentials.TransportCredentials // of connections to other masters
}

// Run is a master until ctx ends.
func Run(ctx context.Context, o Options, log *slog.Logger) (err error) {
	d := &daemon{o: o, log: log}
	if err := d.open(); err != nil {
		return errors.Join(err, d.close())
	}
	defer func() { err = errors.Join(err, d.close()) }()
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{d.gossip.Run, d.peers.Run, d.master.Run, d.serveMetrics, d.serveDCOS, d.announce} {
		group.Go(func() error { return run(ctx) })
	}
	return group.Wait()
}

// open makes the parts. The rows of nodes are not kept on disk: every node brings its own.
func (d *daemon) open() error {
	secrets, err := process.Secrets(d.o.SecretFile)
	if err != nil {
		return err
	}
	secret, others := process.First(secrets)
	d.secret = string(secret)
	if d.wire, err = wire.Credentials(secrets...); err != nil {
		return err
	}
	if err := os.MkdirAll(d.o.State, 0o700); err != nil {
		return err
	}
	if d.store, err = state.Open(state.Options{Whole: true, Log: d.log.WithGroup("rows")}); err != nil {
		return err
	}
	d.gossip, err = gossip.Open(gossip.Options{
		ID: discovery.NodeID(d.o.ID), Role: gossip.RoleMaster, Bind: d.o.addr, Port: d.o.Gossip, Join: d.o.Join,
		Secret: secret, Others: others, Dir: d.o.State, Log: d.log.WithGroup("gossip"),
	})
	if err != nil {
		return err
	}
	if d.syncer, err = discoverypb.NewSyncer(discoverypb.SyncOptions{Store: d.store, Complete: d.complete, Log: d.log.WithGroup("sync")}); err != nil {
		return err
	}
	d.peers, err = peers.New(peers.Options{
		Every: true, Masters: d.otherMasters, Exchange: d.exchange, Log: d.log.WithGroup("peers"),
	})
	if err != nil {
		return err
	}
	o := controlmaster.Options{
		ID: d.o.ID, Addr: d.o.addr, Listen: d.listen(d.o.Port),
		Ledger:   ledger.Options{Dir: filepath.Join(d.o.State, "etcd"), Initial: d.o.peers, Endpoints: d.o.Etcd},
		Facts:    d.store,
		Members:  d.gossip,
		Emit:     func(rows []discovery.Row) error { _, err := d.store.Apply(rows); return err },
		Services: []controlpb.Registration{d.syncer.Register},
		Secret:   string(secret),
		Others:   others,
		Log:      d.log,
	}
	if len(d.o.Etcd) > 0 {
		o.Ledger.Dir = ""
	}
	if d.o.HTTP != 0 {
		o.HTTP = d.listen(d.o.HTTP)
	}
	d.master, err = controlmaster.Open(o)
	return err
}

// listen is on all addresses: operators on this machine ask at 127.0.0.1, nodes at Addr.
func (d *daemon) listen(port uint16) string { return ":" + strconv.Itoa(int(port)) }

// announce says when a majority of the masters has come together.
func (d *daemon) announce(ctx context.Context) error {
	select {
	case <-d.master.Ready():
		d.ready.Store(new(time.Now()))
		d.log.InfoContext(ctx, "ready", "master", d.o.ID, "addr", d.master.Addr().String())
	case <-ctx.Done():
	}
	return nil
}

// How long after a start a master waits, before it vouches for rows, for nodes that have not brought theirs: to
// hear who lives, and for those that live.
const (
	waitForMembers = 3 * time.Second
	waitForNodes   = 15 * time.Second
)

// complete tells whether every node has brought its rows since this master started: all that were admitted and
// live, for some time.
func (d *daemon) complete() bool {
	ready := d.ready.Load()
	if ready == nil || len(d.store.Rows(discovery.KindMaster)) == 0 {
		return false // the ledger's rows are not here
	}
	since := time.Since(*ready)
	admitted, err := state.All[discovery.Admission](d.store, discovery.KindAdmission)
	if err != nil {
		d.log.Debug("rows of admissions", "error", err)
	}
	here := make(map[string]bool)
	for _, r := range d.store.Rows(discovery.KindNode) {
		here[r.Writer] = true
	}
	for _, a := range admitted {
		if a.VTEP.IsValid() && !here[string(a.Node)] && (since < waitForMembers || d.gossip.Alive(a.Node) && since < waitForNodes) {
			return false
		}
	}
	return true
}

func (d *daemon) close() error {
	var errs []error
	if d.syncer != nil {
		d.syncer.Close()
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	return errors.Join(errs...)
}

func (d *daemon) serveMetrics(ctx context.Context) error {
	return process.ServeMetrics(ctx, d.o.Metrics, d.report)
}

// serveDCOS answers what programs made for DC/OS ask about overlays.
func (d *daemon) serveDCOS(ctx context.Context) error {
	return process.ServeHTTP(ctx, d.o.DCOS, compat.MasterHandler(compat.DefaultPlan(), d.master.Service(), d.secret, d.o.addr))
}

// report asks every room for its Stats.
func (d *daemon) report(send process.Send) {
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	send("rows", "live rows of all writers", gauge, float64(d.store.Stats().Rows))
	members := d.gossip.Stats()
	send("members", "members by state", gauge, float64(members.Alive), "state", "alive")
	send("members", "members by state", gauge, float64(members.Dead), "state", "dead")
	streams := d.syncer.Stats()
	send("sync_streams", "streams of rows that are open", gauge, float64(streams.Open))
	send("sync_rows_total", "rows exchanged", counter, float64(streams.Sent), "direction", "sent")
	send("sync_rows_total", "rows exchanged", counter, float64(streams.Received), "direction", "received")
}
