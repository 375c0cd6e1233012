// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// alone is the peer address of a single master. Nothing listens there and nothing dials it.
const alone = "127.0.0.1:7710"

// runServer keeps the embedded server. The client calls it in process: no port for clients, which
// could write past the masters, is ever opened.
func (l *Ledger) runServer(ctx context.Context) error {
	unlock, err := lock(l.o.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	server, err := embed.StartEtcd(l.o.embed())
	if err != nil {
		return fmt.Errorf("start the store in %s: %w", l.o.Dir, err)
	}
	defer server.Close()
	client := v3client.New(server.Server)
	defer client.Close() //nolint:errcheck // there is no connection to close, it only ends watches
	l.etcd = client

	ready := server.Server.ReadyNotify()
	for {
		select {
		case <-ready:
			close(l.ready)
			ready = nil
		case err := <-server.Err():
			return fmt.Errorf("store in %s: %w", l.o.Dir, err)
		case <-server.Server.StopNotify():
			return fmt.Errorf("store in %s: the server stopped", l.o.Dir)
		case <-ctx.Done():
			return nil
		}
	}
}

func (o Options) embed() *embed.Config {
	c := embed.NewConfig()
	c.Name = o.ID
	c.Dir = filepath.Join(o.Dir, "etcd")
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(o.Log))
	c.TickMs = uint(o.Heartbeat.Milliseconds())
	c.ElectionMs = uint(o.Election.Milliseconds())
	c.InitialClusterToken = "weft"
	// What was decided an hour ago and replaced since is of no use: rows carry the newest.
	c.AutoCompactionMode = embed.CompactorModePeriodic
	c.AutoCompactionRetention = "1h"
	// The removal of a large network names every block and identity of it, some 40 bytes each.
	c.MaxRequestBytes = 10 << 20
	c.ListenClientUrls, c.AdvertiseClientUrls = nil, nil
	c.EnableGRPCGateway = false

	initial := o.Initial
	if len(initial) == 0 {
		initial = map[string]string{o.ID: alone}
	}
	var members []string
	for _, id := range slices.Sorted(maps.Keys(initial)) {
		members = append(members, id+"=http://"+initial[id])
	}
	c.InitialCluster = strings.Join(members, ",")
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: initial[o.ID]}}
	c.ListenPeerUrls = nil
	if o.Listen != "" {
		c.ListenPeerUrls = []url.URL{{Scheme: "http", Host: o.Listen}}
	}
	return c
}

// lock takes the folder for this process, because the server itself would wait for ever for another
// one that has it.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the store's folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the store's folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close() //nolint:errcheck // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("store in %s: another master uses this folder", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil //nolint:errcheck // nothing was written; closing unlocks
}
