// SPDX-License-Identifier: Apache-2.0

// Command overlay lets everything happen to a cluster that its networks have to survive, under traffic, and counts
// what is lost: numbered datagrams and new connections between tasks of two hosts, in both families, while
// daemons die, change version and freeze, masters are gone, pins are wiped and addresses change.
//
//	overlay -weft bin/weft -next bin/weft-next [-short]
//
// It prints a line for each event and ends with the sum, and with status 1 when that is not zero.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"weft/tests/chaos/actor"
	"weft/tests/chaos/script"
	"weft/tests/lab"
)

// options of a run.
type options struct {
	*script.Options
	udp      int // datagrams a second, over both families and directions
	connects int // new connections a second, over both families
}

func main() {
	o := options{Options: script.Flags()}
	flag.IntVar(&o.udp, "udp", 50000, "datagrams a second")
	flag.IntVar(&o.connects, "connects", 1000, "new connections a second")
	flag.Parse()
	script.Main("chaos", func(ctx context.Context) error { return run(ctx, os.Stdout, o) })
}

func run(ctx context.Context, out io.Writer, o options) (err error) {
	traffic, remove, err := actor.Build(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	began := time.Now()
	l, end, err := o.Up(ctx, lab.Options{Hosts: 3, Masters: 3})
	if err != nil {
		return err
	}
	s := &stage{o: o, out: out, lab: l, traffic: traffic}
	defer func() { err = errors.Join(err, end(s.end)) }()
	if err := s.set(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "three hosts and three masters are up (%.1f s)\n", time.Since(began).Seconds())
	var all []outcome
	err = script.Play(o.Options, events(), func(e event) error {
		r, err := s.during(ctx, e)
		if err != nil {
			return err
		}
		r.print(s.out)
		all = append(all, r)
		return nil
	})
	if err != nil {
		return err
	}
	return s.sum(all)
}
