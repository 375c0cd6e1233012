// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Keys of the ledger's own.
const (
	keyVersion = "version"
	keyElect   = "election/"
)

// MaxChanges is how many keys and prefixes one Change may name: an etcd as it is delivered takes 128
// operations in a transaction, and some are ours.
const MaxChanges = 120

// Change is a decision: what to write, and what must not have changed since it was made.
type Change struct {
	// Base is the version (see Update) that the decision was made on.
	Base uint64
	// Fence, if not zero, lets the change through only as long as the leader that made it leads.
	Fence Fence
	// Put writes values, Delete removes keys, DeleteAll all keys below each prefix (ending in "/").
	Put       map[string][]byte
	Delete    []string
	DeleteAll []string
}

// Empty reports whether c writes nothing.
func (c Change) Empty() bool { return c.Size() == 0 }

// Size is how many of MaxChanges c takes.
func (c Change) Size() int { return len(c.Put) + len(c.Delete) + len(c.DeleteAll) }

// Commit applies a change as one revision, which it returns. With ErrConflict the revision is the
// version that the next try must have seen. After ErrUnavailable the change may have been made or
// not: deciding anew on a newer base tells.
func (l *Ledger) Commit(ctx context.Context, c Change) (uint64, error) {
	if c.Size() > MaxChanges {
		return 0, fmt.Errorf("commit %d changes: at most %d are allowed", c.Size(), MaxChanges)
	}
	client, err := l.client(ctx)
	if err != nil {
		return 0, err
	}
	version := l.key(keyVersion)
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(version), "=", int64(c.Base))}
	otherwise := []clientv3.Op{clientv3.OpGet(version)}
	if c.Fence != (Fence{}) {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(c.Fence.key), "=", int64(c.Fence.Epoch)))
		otherwise = append(otherwise, clientv3.OpGet(c.Fence.key))
	}
	resp, err := client.Txn(ctx).If(conditions...).Then(l.operations(c)...).Else(otherwise...).Commit()
	switch {
	case err != nil:
		return 0, unavailable("commit", err)
	case resp.Succeeded:
		return uint64(resp.Header.Revision), nil
	case c.Fence != (Fence{}) && !c.Fence.holds(resp.Responses[1].GetResponseRange().GetKvs()):
		return 0, ErrFenced
	}
	var revision uint64
	for _, kv := range resp.Responses[0].GetResponseRange().GetKvs() {
		revision = uint64(kv.ModRevision)
	}
	return revision, ErrConflict
}

func (l *Ledger) operations(c Change) []clientv3.Op {
	ops := []clientv3.Op{clientv3.OpPut(l.key(keyVersion), "")}
	for key, value := range c.Put {
		ops = append(ops, clientv3.OpPut(l.key(key), string(value)))
	}
	for _, key := range c.Delete {
		ops = append(ops, clientv3.OpDelete(l.key(key)))
	}
	for _, prefix := range c.DeleteAll {
		ops = append(ops, clientv3.OpDelete(l.key(prefix), clientv3.WithPrefix()))
	}
	return ops
}

// Version asks a majority of the masters for the revision of the newest decision, so that who has
// seen it has seen all that was decided before the question.
func (l *Ledger) Version(ctx context.Context) (uint64, error) {
	client, err := l.client(ctx)
	if err != nil {
		return 0, err
	}
	resp, err := client.Get(ctx, l.key(keyVersion), clientv3.WithKeysOnly())
	if err != nil {
		return 0, unavailable("ask for the version", err)
	}
	if len(resp.Kvs) == 0 {
		return 0, nil
	}
	return uint64(resp.Kvs[0].ModRevision), nil
}

func (l *Ledger) key(key string) string { return l.o.Prefix + key }

func (l *Ledger) name(key []byte) string { return strings.TrimPrefix(string(key), l.o.Prefix) }

// unavailable marks errors that tell of no majority.
func unavailable(doing string, err error) error {
	for _, no := range []error{
		context.DeadlineExceeded, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail,
		rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrNoLeader, rpctypes.ErrStopped, rpctypes.ErrLeaderChanged,
	} {
		if errors.Is(err, no) || rpctypes.Error(err) == no { //nolint:errorlint // Error gives the sentinel itself
			return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
		}
	}
	return fmt.Errorf("%s: %w", doing, err)
}
