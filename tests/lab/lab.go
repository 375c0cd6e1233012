// SPDX-License-Identifier: Apache-2.0

// Package lab makes several hosts on one machine: network namespaces joined by an underlay bridge,
// with real weft processes in them and all state under one folder. It is what `weft lab` and the
// story tests run on; what the processes do it leaves to them.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a lab; the underlay is one /24.
const (
	MaxHosts   = 64
	MaxMasters = 5
)

// Errors of Up and Open; test with errors.Is.
var (
	ErrUp   = errors.New("a lab is up")
	ErrDown = errors.New("no lab is up")
)

// Options of Up. Binary is required, all else has a default.
type Options struct {
	Dir     string // state of the lab; default DefaultDir
	Hosts   int    // default 3
	Masters int    // 1, 3 or 5; default 1
	Binary  string // the weft executable that hosts and masters run
	MTU     int    // of the underlay, bytes; default 1500
	IPv6    bool   // hosts have IPv6 addresses alone
	// Netd are further arguments for every node daemon.
	Netd []string
	// Master are further arguments for every master.
	Master []string
	// Bare makes hosts without any daemon: Host.StartNetd and Host.StartMaster start them.
	Bare bool
}

// DefaultDir is where `weft lab` keeps its lab.
const DefaultDir = "/run/weft-lab"

// Lab is a lab that is up. Its exported fields are what lab.json holds.
type Lab struct {
	Dir     string   `json:"dir"`
	Binary  string   `json:"binary"`
	Cgroup  string   `json:"cgroup"` // cgroup2 folder, everything the lab runs is below it
	MTU     int      `json:"mtu"`
	IPv6    bool     `json:"ipv6,omitempty"`
	Hosts   []*Host  `json:"hosts"`
	Masters []*Host  `json:"masters"`
	Netd    []string `json:"netd,omitempty"`
	Master  []string `json:"master,omitempty"`
}

// Host is one namespace of the lab: a host for tasks (h1, h2, ...) or a master (m1, ...).
type Host struct {
	Name  string     `json:"name"`
	Addr  netip.Addr `json:"addr"` // on the underlay, 10.77.0.0/24; Addr6 where that is IPv6 alone
	Addr6 netip.Addr `json:"addr6"`
	Dir   string     `json:"dir"`
	// Binary is the weft that daemons started from now on run, when it is another than the lab's.
	Binary string `json:"binary,omitempty"`
	lab    *Lab
}

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if o.Hosts == 0 {
		o.Hosts = 3
	}
	if o.Masters == 0 {
		o.Masters = 1
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	var errs []error
	if o.Hosts < 1 || o.Hosts > MaxHosts {
		errs = append(errs, fmt.Errorf("hosts is %d: 1 to %d are allowed", o.Hosts, MaxHosts))
	}
	if !slices.Contains([]int{1, 3, 5}, o.Masters) {
		errs = append(errs, fmt.Errorf("masters is %d: 1, 3 or 5 are allowed (a majority must be able to form)", o.Masters))
	}
	if o.MTU < 1330 || o.MTU > 65535 {
		errs = append(errs, fmt.Errorf("mtu is %d: 1330 (IPv6 inside the tunnel needs 1280) to 65535 are allowed", o.MTU))
	}
	if o.Binary == "" {
		errs = append(errs, errors.New("binary is empty: the path of the weft executable is needed"))
	}
	return o, errors.Join(errs...)
}

// Up makes a lab and returns when every node daemon and master answers. What was made is undone on
// error. A lab in the same folder that is up already is ErrUp.
func Up(ctx context.Context, o Options) (*Lab, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs root: it makes network namespaces and loads BPF programs")
	}
	unlock, err := lock(o.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(o.Dir, "lab.json")); err == nil {
		return nil, fmt.Errorf("%w in %s: use it, or take it down first with `weft lab down`", ErrUp, o.Dir)
	}
	if err := clean(o.Dir); err != nil { // of a lab that died while coming up
		return nil, err
	}
	l, err := layout(o)
	if err != nil {
		return nil, err
	}
	if err := l.build(ctx, o.Bare); err != nil {
		return nil, errors.Join(err, clean(o.Dir))
	}
	return l, nil
}

// layout decides names and addresses.
func layout(o Options) (*Lab, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	group, err := cgroupOf(dir)
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir, Binary: o.Binary, Cgroup: group, MTU: o.MTU, IPv6: o.IPv6, Netd: o.Netd, Master: o.Master}
	add := func(prefix string, n, last int) []*Host {
		var hosts []*Host
		for i := 1; i <= n; i++ {
			name := fmt.Sprintf("%s%d", prefix, i)
			h := &Host{
				Name:  name,
				Addr:  netip.AddrFrom4([4]byte{10, 77, 0, byte(last + i)}),
				Addr6: netip.MustParseAddr(fmt.Sprintf("fd77::%x", last+i)),
				Dir:   filepath.Join(dir, name),
				lab:   l,
			}
			if o.IPv6 {
				h.Addr = h.Addr6
			}
			hosts = append(hosts, h)
		}
		return hosts
	}
	l.Hosts = add("h", o.Hosts, 0)
	l.Masters = add("m", o.Masters, 200)
	return l, nil
}

// build makes what layout decided, in the order in which later parts need earlier ones.
func (l *Lab) build(ctx context.Context, bare bool) error {
	for _, stage := range []func() error{l.mountBPF, l.makeCgroups, l.makeUnderlay} {
		if err := stage(); err != nil {
			return err
		}
	}
	if !bare {
		if err := l.startDaemons(ctx); err != nil {
			return err
		}
	}
	return l.save()
}

func (l *Lab) startDaemons(ctx context.Context) error {
	for _, m := range l.Masters {
		if err := m.StartMaster(); err != nil {
			return err
		}
	}
	for _, h := range l.Hosts {
		if err := h.StartNetd(); err != nil {
			return err
		}
	}
	for _, h := range l.Hosts {
		if err := h.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Open returns the lab that is up in dir (DefaultDir when empty), or ErrDown.
func Open(dir string) (*Lab, error) {
	if dir == "" {
		dir = DefaultDir
	}
	text, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s: make one with `weft lab up`", ErrDown, dir)
	}
	if err != nil {
		return nil, err
	}
	l := new(Lab)
	if err := json.Unmarshal(text, l); err != nil {
		return nil, fmt.Errorf("read %s: %w; `weft lab down` clears it", filepath.Join(dir, "lab.json"), err)
	}
	for _, h := range l.all() {
		h.lab = l
	}
	return l, nil
}

// Down ends a lab and removes everything it made, whatever state it is in; no lab is no error.
func Down(dir string) error {
	if dir == "" {
		dir = DefaultDir
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := clean(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// clean removes all that a lab in dir can have made, by name, so that it needs no state file.
func clean(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	var errs []error
	if group, err := cgroupOf(dir); err == nil {
		errs = append(errs, removeCgroup(group))
	}
	errs = append(errs, unmountBelow(dir))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, entry := range entries {
		if entry.Name() != "lock" {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, entry.Name())))
		}
	}
	return errors.Join(errs...)
}

// Host returns the host or master called name; the error lists those there are.
func (l *Lab) Host(name string) (*Host, error) {
	var names []string
	for _, h := range l.all() {
		if h.Name == name {
			return h, nil
		}
		names = append(names, h.Name)
	}
	return nil, fmt.Errorf("the lab has no host %q: it has %s", name, strings.Join(names, ", "))
}

func (l *Lab) all() []*Host { return slices.Concat(l.Hosts, l.Masters) }

func (l *Lab) save() error {
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.Dir, "lab.json"), append(text, '\n'), 0o600)
}

// lock lets one process at a time change the lab of dir.
func lock(dir string) (func(), error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("another process is changing the lab in %s: %w", dir, err), f.Close())
		}
	}
}
