// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/bpf/row"
	"weft/discovery"
	"weft/overlay"
	"weft/overlay/apply"
	"weft/overlay/compile"
)

// undoFor is how long taking back a failed attachment may take, when its caller has gone.
const undoFor = 10 * time.Second

// Attach implements overlay.Service.
func (e *Engine) Attach(ctx context.Context, a overlay.Attachment) (overlay.Endpoint, error) {
	ep, err := e.attach(ctx, a.Normal())
	e.mu.Lock()
	if err != nil {
		e.stats.Refused++
	} else {
		e.stats.Attached++
	}
	e.mu.Unlock()
	if err != nil {
		return overlay.Endpoint{}, fmt.Errorf("attach %s to network %s: %w", a.ID, a.Network, err)
	}
	return ep, nil
}

func (e *Engine) attach(ctx context.Context, a overlay.Attachment) (overlay.Endpoint, error) {
	if err := a.Validate(); err != nil {
		return overlay.Endpoint{}, err
	}
	if err := cmp.Or(ctx.Err(), e.restored(ctx)); err != nil {
		return overlay.Endpoint{}, err
	}
	unlock, err := e.ids.lock(ctx, a.ID)
	if err != nil {
		return overlay.Endpoint{}, err
	}
	defer e.wake() // its owner is to be watched, or what it left is to be taken away
	defer unlock()
	if ep, there, err := e.existing(ctx, a); there || err != nil {
		return ep, err
	}
	if a.InHost() {
		ep, err := e.takeIn(a)
		if err == nil {
			e.log.Info("attached", "attachment", ep.ID, "task", ep.Task, "network", ep.Network, "addrs", fmt.Sprint(ep.Addrs()))
		}
		return ep, err
	}
	n, err := e.declared(ctx, a)
	if err != nil {
		return overlay.Endpoint{}, err
	}
	defer e.forget(a.ID)
	identity, err := e.identity(ctx, n, a)
	if err != nil {
		return overlay.Endpoint{}, err
	}
	ep, err := e.reserve(ctx, n, a, identity)
	if err != nil {
		return overlay.Endpoint{}, err
	}
	ep, err = e.weave(ctx, n, ep)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoFor)
		defer cancel()
		return overlay.Endpoint{}, errors.Join(err, e.takeDown(undo, a.ID))
	}
	e.log.Info("attached", "attachment", ep.ID, "task", ep.Task, "network", ep.Network, "addrs", fmt.Sprint(ep.Addrs()))
	return ep, nil
}

// existing answers an attachment that is there already. One that is half taken down is finished first.
func (e *Engine) existing(ctx context.Context, a overlay.Attachment) (overlay.Endpoint, bool, error) {
	e.mu.Lock()
	var en entry
	p, there := e.entries[a.ID]
	if there {
		en = *p
	}
	e.mu.Unlock()
	switch {
	case !there:
		return overlay.Endpoint{}, false, nil
	case en.phase != live || en.ended:
		return overlay.Endpoint{}, false, e.takeDown(ctx, a.ID)
	case !en.Same(a) && !e.hasLink(ctx, en):
		return overlay.Endpoint{}, false, e.takeDown(ctx, a.ID) // an earlier task that has ended just now
	case !en.Same(a) && en.SameTask(a):
		ep, err := e.regroup(ctx, en, a.Groups)
		return ep, true, err
	case !en.Same(a):
		return overlay.Endpoint{}, true, fmt.Errorf("%w: it is attached already, with other contents (network %s, groups %s, "+
			"namespace %s): detach it first", overlay.ErrConflict, en.Network, listOf(en.Groups), en.NetNS)
	}
	return en.Endpoint, true, nil
}

func (e *Engine) hasLink(ctx context.Context, en entry) bool {
	links, err := e.o.Links.List(ctx)
	return err != nil || en.InHost() || isAmong(en, links)
}

// newsTakes is how long what the masters declared just now may take to get here.
const newsTakes = 2 * time.Second

// declared checks an attachment against what the masters declared. What is not known may be news: it is waited for.
func (e *Engine) declared(ctx context.Context, a overlay.Attachment) (overlay.Network, error) {
	ctx, cancel := context.WithTimeout(ctx, newsTakes)
	defer cancel()
	for {
		changed := e.o.Rows.Changed(discovery.KindNetwork, discovery.KindGroup)
		n, err := e.known(a)
		if !errors.Is(err, overlay.ErrNotFound) {
			return n, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return n, err
		}
	}
}

// known checks an attachment against what is known now.
func (e *Engine) known(a overlay.Attachment) (overlay.Network, error) {
	n, ok := e.facts.Network(a.Network)
	if !ok {
		var known []string
		for _, n := range e.facts.Networks() {
			known = append(known, n.Name)
		}
		return overlay.Network{}, fmt.Errorf("network %q: %w: known are %s", a.Network, overlay.ErrNotFound, listOf(known))
	}
	declared := []string{overlay.GroupPublic}
	for _, g := range e.facts.Groups() {
		if g.Network == a.Network {
			declared = append(declared, g.Name)
		}
	}
	for _, g := range a.Groups {
		if !slices.Contains(declared, g) {
			return overlay.Network{}, fmt.Errorf("group %q of network %s: %w: declared are %s (see `weft group add`)",
				g, a.Network, overlay.ErrNotFound, listOf(declared))
		}
	}
	return n, n.CheckFixed(a.Fixed)
}

// listOf joins names in order, the first few of many.
func listOf(names []string) string {
	const most = 12
	names = slices.Sorted(slices.Values(names))
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// identity returns the identity of an attachment's groups, asking the masters for one if need be.
func (e *Engine) identity(ctx context.Context, n overlay.Network, a overlay.Attachment) (overlay.Identity, error) {
	if len(a.Groups) == 0 {
		return row.IdentityUngrouped, nil
	}
	for {
		changed := e.o.Rows.Changed(discovery.KindIdentity, discovery.KindRefusal)
		if id, ok := e.facts.Identity(n.Name, a.Groups); ok {
			return id, nil
		}
		if err := e.refused(groupsKey(n.Name, a.Groups), overlay.ErrExhausted); err != nil {
			return 0, err
		}
		if err := e.wish(a.ID, wish{network: n.Name, groups: a.Groups}); err != nil {
			return 0, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, fmt.Errorf("no master answered what the identity of groups %s is; "+
				"attachments with groups that this node has used before need none: %w", listOf(a.Groups), ctx.Err())
		}
	}
}

// clash tells when a port of the node leads to another task already. The caller holds e.mu.
func (e *Engine) clash(a overlay.Attachment) error {
	for _, en := range e.entries {
		for _, theirs := range en.Ports {
			for _, mine := range a.Ports {
				if en.ID != a.ID && mine.Clashes(theirs) {
					return fmt.Errorf("%w: port mapping %s: port %d/%s of this node leads to task %s already (%s)",
						overlay.ErrConflict, mine, mine.HostPort, mine.Protocol, en.Task, theirs)
				}
			}
		}
	}
	return nil
}

// record writes an endpoint's row; it is on disk when record returns.
func (e *Engine) record(ep overlay.Endpoint) error {
	value, err := json.Marshal(ep)
	if err != nil {
		return fmt.Errorf("record endpoint: %w", err)
	}
	if err := e.o.Rows.Put(discovery.KindEndpoint, ep.ID, value); err != nil {
		return fmt.Errorf("record endpoint: %w", err)
	}
	return nil
}

// weave writes a reserved endpoint down, makes its link and lets packets pass.
func (e *Engine) weave(ctx context.Context, n overlay.Network, ep overlay.Endpoint) (overlay.Endpoint, error) {
	if err := e.record(ep); err != nil {
		return ep, err
	}
	// The next block is wanted before the last address is gone.
	if err := e.syncWants(); err != nil {
		return ep, err
	}
	if err := e.hold(ctx, ep); err != nil {
		return ep, err
	}
	s := specOf(ep, n)
	link, err := e.o.Links.Ensure(ctx, s)
	if err != nil {
		return ep, err
	}
	ep.Cookie = link.Cookie
	if err := e.record(ep); err != nil {
		return ep, err
	}
	if err := e.o.Attacher.AttachWorkload(link.Ifindex); err != nil {
		return ep, err
	}
	e.mu.Lock()
	e.entries[ep.ID] = &entry{Endpoint: ep, ifindex: link.Ifindex, phase: live}
	e.tell()
	e.mu.Unlock()
	if err := e.syncTables(ctx); err != nil {
		return ep, err
	}
	return ep, e.o.Links.Up(ctx, s)
}

// hold takes the ports of the node that lead to the task; each family that a mapping asks for must be
// one that the task has.
func (e *Engine) hold(ctx context.Context, ep overlay.Endpoint) error {
	for _, m := range ep.Ports {
		if m.HostIP.IsValid() && !slices.ContainsFunc(ep.Addrs(), func(a netip.Addr) bool { return m.Serves(a.Is4()) }) {
			return fmt.Errorf("%w port mapping %s: the task has no address of host_ip's family in network %s",
				overlay.ErrInvalid, m, ep.Network)
		}
	}
	if len(ep.Ports) == 0 || e.o.Host == nil {
		return nil
	}
	ports := compile.PortsOf(ep)
	if err := e.o.Host.Hold(ctx, ports); err != nil {
		return err
	}
	if holdsItself(ep) {
		return e.o.Host.Release(ctx, ports)
	}
	return nil
}

// holdsItself tells of tasks of a CNI runtime, which may hold the ports that it maps (podman does): it
// is told whether they are free, and left to it.
func holdsItself(ep overlay.Endpoint) bool { return ep.OwnerPID == 0 }

func specOf(ep overlay.Endpoint, n overlay.Network) apply.Spec {
	return apply.Spec{
		Name: ep.HostInterface, NetNS: ep.NetNS, Interface: ep.Interface, MAC: compile.MAC(ep.Addr4, ep.Addr6),
		Addr4: ep.Addr4, Addr6: ep.Addr6, Subnets: n.Subnets(), MTU: ep.MTU, Published: len(ep.Ports) > 0,
	}
}

// Detach implements overlay.Service.
func (e *Engine) Detach(ctx context.Context, id string) error {
	err := e.restored(ctx)
	if err == nil {
		err = e.end(ctx, id, "asked")
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	return nil
}

// end takes an attachment down, if it is there.
func (e *Engine) end(ctx context.Context, id, why string) error {
	unlock, err := e.ids.lock(ctx, id)
	if err != nil {
		return err
	}
	defer e.wake()
	defer unlock()
	e.mu.Lock()
	_, there := e.entries[id]
	e.mu.Unlock()
	if !there {
		return nil
	}
	if err := e.takeDown(ctx, id); err != nil {
		return err
	}
	e.log.Info("detached", "attachment", id, "reason", why)
	return nil
}

// takeDown undoes the stages of an attachment, last one first. The caller holds its id. What fails
// leaves the entry as leaving: its addresses are not given away, and the loop tries again.
func (e *Engine) takeDown(ctx context.Context, id string) error {
	e.mu.Lock()
	en, there := e.entries[id]
	if !there {
		e.mu.Unlock()
		return nil
	}
	if en.phase == live {
		e.tell()
	}
	en.phase = leaving
	leaves := *en
	e.mu.Unlock()
	if err := e.takeAway(ctx, leaves); err != nil {
		return fmt.Errorf("take down: %w", err)
	}
	e.mu.Lock()
	delete(e.entries, id)
	e.mu.Unlock()
	return nil
}

func (e *Engine) takeAway(ctx context.Context, en entry) error {
	if err := errors.Join(e.removeRows(en), e.closePorts(ctx, en)); err != nil {
		return err
	}
	if en.InHost() {
		return e.o.Rows.Delete(discovery.KindEndpoint, en.ID)
	}
	// The link first: its programs close it until it is gone.
	if err := e.o.Links.Remove(ctx, en.HostInterface); err != nil {
		return err
	}
	if en.ifindex != 0 {
		if err := e.o.Attacher.DetachWorkload(en.ifindex); err != nil {
			return err
		}
	}
	return e.o.Rows.Delete(discovery.KindEndpoint, en.ID)
}

// tell lets Watch look again. The caller holds e.mu.
func (e *Engine) tell() {
	close(e.changed)
	e.changed = make(chan struct{})
}
