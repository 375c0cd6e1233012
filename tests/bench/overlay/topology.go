// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"weft/tests/lab"
	"weft/tests/lab/owned"
)

// Variants, by the letter that results have for them.
const (
	raw        = "raw"        // the bare link between two hosts
	routed     = "routed"     // tasks behind a veth pair each, plain routing, no tunnel
	docker     = "docker"     // bridge, VXLAN device, fixed forwarding table
	flannel    = "flannel"    // bridge, route, VXLAN device, forward and masquerade chains, conntrack
	weft       = "weft"       // netd
	weftSlow   = "weft-slow"  // netd, encapsulation and decapsulation by the kernel's VXLAN device
	bridged    = "bridge"     // two tasks of one host on a bridge
	weftAtHome = "weft-local" // two tasks of one host
)

// pair is two endpoints that can talk.
type pair struct {
	variant        string
	client, server *endpoint
}

// topology is every variant, up at once: two hosts each, joined by a link of their own.
//
//	      +---- wire0 ------+
//	host a                  host b        x 6 variants
//	      +-- eth0 -- lab's bridge -- eth0, masters: what daemons say to each other
type topology struct {
	o         options
	lab       *lab.Lab
	load      string // executable of endpoints
	dir       string // of built files
	pairs     map[string]*pair
	endpoints []*endpoint
}

// side is one host of a pair.
type side struct {
	host *lab.Host
	n    int // which pair
	b    bool
}

// wire addresses: 10.78.N.1 and .2.
func (s side) wire() netip.Prefix  { return s.prefix("10.78.%d.%d/24") }
func (s side) wire6() netip.Prefix { return s.prefix("fd78:%d::%d/64") }

func (s side) prefix(format string) netip.Prefix {
	return netip.MustParsePrefix(fmt.Sprintf(format, s.n, s.last()))
}

func (s side) last() int {
	if s.b {
		return 2
	}
	return 1
}

// build makes all variants.
func build(ctx context.Context, o options) (*topology, error) {
	t := &topology{o: o, pairs: make(map[string]*pair)}
	var err error
	if t.dir, err = owned.Folder("/run", "weft-bench.", remove); err != nil {
		return nil, err
	}
	t.load = filepath.Join(t.dir, "load")
	compile := exec.CommandContext(ctx, "go", "build", "-o", t.load, "./tests/bench/load")
	compile.Stderr, compile.Env = os.Stderr, append(os.Environ(), "CGO_ENABLED=0")
	if err := compile.Run(); err != nil {
		return t, fmt.Errorf("build the endpoints' program: %w", err)
	}
	t.lab, err = lab.Up(ctx, lab.Options{
		Dir: filepath.Join(t.dir, "lab"), Hosts: 12, Masters: 1, Binary: absolute(o.weft), Bare: true,
	})
	if err != nil {
		return t, err
	}
	for n, assemble := range []func(context.Context, side, side) error{
		t.makeRaw, t.makeRouted, t.makeDocker, t.makeFlannel, t.makeWeft, t.makeSlow,
	} {
		a := side{host: t.lab.Hosts[2*n], n: n + 1}
		b := side{host: t.lab.Hosts[2*n+1], n: n + 1, b: true}
		if err := t.wire(a, b); err != nil {
			return t, err
		}
		if err := assemble(ctx, a, b); err != nil {
			return t, fmt.Errorf("hosts %s and %s: %w", a.host.Name, b.host.Name, err)
		}
		if p := t.pairs[[]string{raw, routed, docker, flannel, weft, weftSlow}[n]]; o.big > 0 && (p.variant == raw || p.variant == weft) {
			if err := p.enlarge(a, b, o.big); err != nil {
				return t, err
			}
		}
	}
	return t, nil
}

// endpoint starts an endpoint on a host.
func (t *topology) endpoint(ctx context.Context, h *lab.Host, own bool) (*endpoint, error) {
	e, err := start(h.Command(ctx, t.load), own)
	if err == nil {
		t.endpoints = append(t.endpoints, e)
	}
	return e, err
}

func (t *topology) down() error {
	var errs []error
	for _, e := range t.endpoints {
		errs = append(errs, e.Stop())
	}
	return errors.Join(append(errs, remove(t.dir))...)
}

// remove removes a folder of built files with the lab below it.
func remove(dir string) error {
	return errors.Join(lab.Down(filepath.Join(dir, "lab")), os.RemoveAll(dir))
}

// makeRaw: the endpoints are on the hosts themselves.
func (t *topology) makeRaw(ctx context.Context, a, b side) error {
	p := &pair{variant: raw}
	for _, s := range []side{a, b} {
		e, err := t.endpoint(ctx, s.host, false)
		if err != nil {
			return err
		}
		e.addr4, e.addr6 = s.wire().Addr(), s.wire6().Addr()
		if s.b {
			p.server = e
		} else {
			p.client = e
		}
	}
	t.pairs[raw] = p
	return nil
}
