// SPDX-License-Identifier: Apache-2.0

package mesosdns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"
)

// Of ZooKeeper.
const (
	sessionTimeout = 10 * time.Second
	zkRetry        = time.Second
	zkPort         = "2181"
	// infoPrefix begins the nodes of masters (Mesos 0.24 and newer); the one that came first leads.
	infoPrefix = "json.info_"
)

// ensemble is where masters say who they are: zk://[user:password@]host:port,host:port/path.
type ensemble struct {
	servers        []string
	user, password string
	path           string
}

func parseEnsemble(text string) (ensemble, error) {
	const allowed = "zk://[user:password@]host:port[,host:port...]/path is allowed"
	rest, ok := strings.CutPrefix(text, "zk://")
	hosts, path, found := strings.Cut(rest, "/")
	if !ok || !found || path == "" || hosts == "" {
		return ensemble{}, fmt.Errorf("zk: %q: %s", text, allowed)
	}
	e := ensemble{path: "/" + strings.Trim(path, "/")}
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		e.user, e.password, _ = strings.Cut(hosts[:i], ":")
		hosts = hosts[i+1:]
		if p, err := url.PathUnescape(e.password); err == nil {
			e.password = p
		}
	}
	for server := range strings.SplitSeq(hosts, ",") {
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(strings.Trim(server, "[]"), zkPort)
		}
		if host, port, err := net.SplitHostPort(server); err != nil || host == "" || port == "" {
			return ensemble{}, fmt.Errorf("zk: %q: %s", text, allowed)
		}
		e.servers = append(e.servers, server)
	}
	return e, nil
}

// detector follows the masters that are in ZooKeeper, the leading one first.
type detector struct {
	ensemble
	log *slog.Logger

	mu      sync.Mutex // guards what follows
	masters []string
	changed chan struct{} // closed at the next change
}

func newDetector(e ensemble, log *slog.Logger) *detector {
	return &detector{ensemble: e, log: log, changed: make(chan struct{})}
}

// now returns the masters, none before the first answer, and what is closed when they are others.
func (d *detector) now() ([]string, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.masters, d.changed
}

func (d *detector) set(masters []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Equal(masters, d.masters) {
		return
	}
	d.log.Info("masters by ZooKeeper", "masters", masters)
	d.masters = masters
	close(d.changed)
	d.changed = make(chan struct{})
}

// run follows until ctx ends. What was known stays true while ZooKeeper is away.
func (d *detector) run(ctx context.Context) error {
	conn, events, err := zk.Connect(d.servers, sessionTimeout, zk.WithLogger(zkLog{d.log}))
	if err != nil {
		return fmt.Errorf("zk: %w", err)
	}
	defer conn.Close()
	go func() { // ends with the connection, which closes events
		for range events {
		}
	}()
	login := d.user != ""
	for ctx.Err() == nil {
		var masters []string
		var wait <-chan zk.Event
		var again <-chan time.Time
		if login { // once: the library remembers it
			err = conn.AddAuth("digest", []byte(d.user+":"+d.password))
			login = err != nil
		}
		if !login {
			masters, wait, err = d.read(conn)
		}
		if err == nil {
			d.set(masters)
		} else {
			d.log.Warn("masters not read from ZooKeeper", "path", d.path, "error", err)
			again = time.After(zkRetry)
		}
		select {
		case <-ctx.Done():
		case <-wait:
		case <-again:
		}
	}
	return nil
}

// read lists the masters; wait gets an event when they are others.
func (d *detector) read(conn *zk.Conn) (masters []string, wait <-chan zk.Event, err error) {
	names, _, wait, err := conn.ChildrenW(d.path)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range inOrder(names) {
		text, _, err := conn.Get(d.path + "/" + name)
		if errors.Is(err, zk.ErrNoNode) {
			continue // it went meanwhile: wait tells
		}
		if err != nil {
			return nil, nil, err
		}
		addr, err := parseInfo(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		masters = append(masters, addr)
	}
	return masters, wait, nil
}

// inOrder keeps the nodes of masters, in the order in which they came.
func inOrder(names []string) []string {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, infoPrefix) })
	slices.Sort(names) // ZooKeeper's numbers have ten digits
	return names
}

// parseInfo returns the host:port of a master (Mesos's MasterInfo, as JSON).
func parseInfo(text []byte) (string, error) {
	var info struct {
		Address struct {
			Hostname, IP string
			Port         uint16
		}
		PID string
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return "", err
	}
	host, port := info.Address.IP, strconv.Itoa(int(info.Address.Port))
	if host == "" {
		host = info.Address.Hostname
	}
	if _, at, ok := strings.Cut(info.PID, "@"); ok && host == "" {
		if p, err := netip.ParseAddrPort(at); err == nil {
			host, port = p.Addr().String(), strconv.Itoa(int(p.Port()))
		}
	}
	if host == "" || port == "0" {
		return "", errors.New("no address is in it")
	}
	return net.JoinHostPort(host, port), nil
}

// zkLog is the library's log.
type zkLog struct{ log *slog.Logger }

// Printf implements zk.Logger.
func (l zkLog) Printf(format string, args ...any) {
	l.log.Debug("library", "text", fmt.Sprintf(format, args...))
}
