// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// meshLook is how often a mesh asks who the masters are.
const meshLook = time.Second

// mesh keeps an exchange with every master at once: what a node tells one of them, all know.
func (p *Peers) mesh(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	talking := make(map[string]context.CancelFunc)
	look := time.NewTicker(meshLook)
	defer look.Stop()
	for {
		wanted := p.o.Masters()
		for _, addr := range wanted {
			if talking[addr] == nil {
				one, stop := context.WithCancel(ctx)
				talking[addr] = stop
				running.Go(func() { p.keepOne(one, addr) })
			}
		}
		maps.DeleteFunc(talking, func(addr string, stop context.CancelFunc) bool {
			if slices.Contains(wanted, addr) {
				return false
			}
			stop()
			return true
		})
		select {
		case <-ctx.Done():
			for _, stop := range talking {
				stop()
			}
			return
		case <-look.C:
		}
	}
}

// keepOne exchanges with addr again and again.
func (p *Peers) keepOne(ctx context.Context, addr string) {
	wait := pause{first: 100 * time.Millisecond, last: 2 * time.Second}
	for {
		p.talkAsPeer(ctx, addr, &wait)
		if !sleep(ctx, wait.take()) {
			return
		}
	}
}

// talkAsPeer runs one exchange that Stats lists among the peers while it is answered.
func (p *Peers) talkAsPeer(ctx context.Context, addr string, wait *pause) {
	met := p.talk(ctx, addr, func() {
		wait.reset()
		p.update(func(s *Stats) { s.Peers = append(s.Peers, addr) })
	})
	if met {
		p.update(func(s *Stats) {
			s.Peers = slices.DeleteFunc(s.Peers, func(a string) bool { return a == addr })
		})
	}
}
