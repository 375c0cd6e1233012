// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Entry is one key as a revision left it.
type Entry struct {
	Key      string
	Value    []byte
	Modified uint64 // revision
	Deleted  bool
}

// Update is what changed between two revisions, or everything.
type Update struct {
	// Revision is the store's; every change up to it has been told.
	Revision uint64
	// Version is the revision of the newest decision: the Base of the next one. 0: none was made.
	Version uint64
	// Reset tells that Entries are all that exist, not what changed.
	Reset   bool
	Entries []Entry // by key when Reset, as they happened otherwise
}

// Watch calls emit with everything, then with each change as it happens; the changes of one revision
// are never told apart. It returns when ctx ends, when emit returns an error (that error), or when
// the store can't go on from where it was; then a new Watch starts with everything again.
func (l *Ledger) Watch(ctx context.Context, emit func(Update) error) error {
	client, err := l.client(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := client.Get(ctx, l.o.Prefix, clientv3.WithPrefix())
	if err != nil {
		return unavailable("read", err)
	}
	update := Update{Revision: uint64(resp.Header.Revision), Reset: true}
	for _, kv := range resp.Kvs {
		l.add(&update, kv, false)
	}
	if err := emit(update); err != nil {
		return err
	}
	version := update.Version
	events := client.Watch(ctx, l.o.Prefix, clientv3.WithPrefix(), clientv3.WithRev(resp.Header.Revision+1))
	for resp := range events {
		if err := resp.Err(); err != nil {
			return unavailable("watch", err)
		}
		update := Update{Revision: uint64(resp.Header.Revision), Version: version}
		for _, event := range resp.Events {
			l.add(&update, event.Kv, event.Type == mvccpb.Event_DELETE)
		}
		version = update.Version
		if len(update.Entries) == 0 {
			continue
		}
		if err := emit(update); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("watch: %w", ErrClosed)
}

func (l *Ledger) add(u *Update, kv *mvccpb.KeyValue, deleted bool) {
	name := l.name(kv.Key)
	switch {
	case name == keyVersion:
		u.Version = uint64(kv.ModRevision)
	case !strings.HasPrefix(name, keyElect):
		u.Entries = append(u.Entries, Entry{Key: name, Value: kv.Value, Modified: uint64(kv.ModRevision), Deleted: deleted})
	}
}
