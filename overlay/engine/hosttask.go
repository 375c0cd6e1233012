// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"time"

	"weft/discovery"
	"weft/overlay"
)

// Tasks in the node's own network are entries without a link (docs/decisions/0021): nothing is made for them, and
// what they end by is their owner alone.

// takeIn makes an entry of a task that is in the node's own network. The caller holds its id.
func (e *Engine) takeIn(a overlay.Attachment) (overlay.Endpoint, error) {
	own, err := e.o.OwnNetNS(a.NetNS)
	if err == nil && !own {
		err = fmt.Errorf("%w netns %q: network %s is of tasks in the node's own network namespace, and that is another one",
			overlay.ErrInvalid, a.NetNS, discovery.HostNetwork)
	}
	if err != nil {
		return overlay.Endpoint{}, err
	}
	ep := e.atHome(overlay.Endpoint{Attachment: a, Node: e.o.Node, Since: time.Now().UTC()})
	if err := e.record(ep); err != nil {
		return overlay.Endpoint{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.entries[a.ID] = &entry{Endpoint: ep, phase: live}
	e.tell()
	return ep, nil
}

// atHome gives a task in the node's own network the addresses that the node has now.
func (e *Engine) atHome(ep overlay.Endpoint) overlay.Endpoint {
	ep.Addr4, ep.Addr6 = e.o.Underlay.Addr4, e.o.Underlay.Addr6
	return ep
}

// takeUp goes on with such a task after a restart; whether its owner still lives is found out by watching it.
func (e *Engine) takeUp(ep overlay.Endpoint) error {
	en := &entry{Endpoint: e.atHome(ep), phase: live}
	if ep.Node != e.o.Node {
		en.phase = leaving
	}
	if en.Addr4 != ep.Addr4 || en.Addr6 != ep.Addr6 {
		if err := e.record(en.Endpoint); err != nil {
			return err
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.entries[ep.ID] = en
	e.tell()
	return nil
}
