// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"

	"weft/overlay"
)

// regroup puts a live task into other groups. Its address, link and flows stay; what its flows may
// is decided by the new groups as soon as the tables are written. On disk first: a crash leaves the task
// in the groups before or in the new ones, whole. The caller holds the attachment's id.
func (e *Engine) regroup(ctx context.Context, en entry, groups []string) (overlay.Endpoint, error) {
	a := en.Attachment
	a.Groups = groups
	n, err := e.declared(ctx, a)
	if err != nil {
		return overlay.Endpoint{}, err
	}
	defer e.forget(a.ID)
	ep := en.Endpoint
	if ep.Identity, err = e.identity(ctx, n, a); err != nil {
		return overlay.Endpoint{}, err
	}
	ep.Groups = groups
	if err := e.record(ep); err != nil {
		return overlay.Endpoint{}, err
	}
	e.mu.Lock()
	if now, there := e.entries[a.ID]; !there || now.phase != live || now.ifindex != en.ifindex {
		e.mu.Unlock()
		return overlay.Endpoint{}, fmt.Errorf("groups of %s: %w: the task ended meanwhile", a.ID, overlay.ErrNotFound)
	}
	e.entries[a.ID].Endpoint = ep
	e.tell()
	e.mu.Unlock()
	if err := e.syncTables(ctx); err != nil {
		return overlay.Endpoint{}, err
	}
	e.log.Info("regrouped", "attachment", ep.ID, "task", ep.Task, "network", ep.Network, "groups", listOf(groups))
	return ep, nil
}
