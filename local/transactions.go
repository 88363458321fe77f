package local

import (
	"context"

	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// transactor runs groups of backend calls in transactions of containerd's metadata. Callers that come while
// one is under way share the next one; see group.
type transactor struct {
	db  *ctdmetadata.DB
	raw *bolt.DB
	// turn is held by whoever wants to be bolt's one writer. bolt would queue them as well, but
	// not let anybody leave the queue whose context ends.
	turn chan struct{}
	// waiting are those who wait for the turn and may have a part in the transaction of whoever has it.
	waiting waiting
}

func newTransactor(db *ctdmetadata.DB, raw *bolt.DB) *transactor {
	return &transactor{db: db, raw: raw, turn: make(chan struct{}, 1)}
}

// update runs fn in a transaction, which travels in fn's context, and commits it if fn returns
// nil. Inside of another update it joins that one's transaction. A failing commit is returned as
// bolt reports it.
//
// Others who call at the same time may have a part in the transaction. If the fn of one of them fails, everything is taken
// back and fn runs once more, in a transaction of its own. So what it assigns outside has to be assigned afresh each time. fn runs on
// the caller's goroutine; it must not use its context after it returned, nor start goroutines that do, nor wait for
// anything that another caller of update holds until he returns.
func (t *transactor) update(ctx context.Context, fn func(context.Context) error) error {
	joined, err := t.joined(ctx)
	if err != nil {
		return err
	}
	if joined {
		return fn(ctx)
	}
	again, err := t.share(ctx, fn)
	if again {
		return t.alone(ctx, fn)
	}
	return err
}

// alone runs fn in a transaction that nobody else has a part in.
func (t *transactor) alone(ctx context.Context, fn func(context.Context) error) error {
	leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	_, err = t.lead(ctx, fn, 1)
	return err
}

// enter waits until it is this caller's turn to write, or ctx ends. leave has to be called.
func (t *transactor) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, errors.WithStack(err)
	}
	select {
	case t.turn <- struct{}{}:
		return t.leave, nil
	case <-ctx.Done():
		return nil, errors.Wrap(ctx.Err(), waitingForTurn)
	}
}

func (t *transactor) leave() { <-t.turn }

const waitingForTurn = "waiting for the metadata database"

// joined tells whether ctx carries a transaction of this database. One that ended, or one of
// another database, does not count.
func (t *transactor) joined(ctx context.Context) (bool, error) {
	tx, ok := boltutil.Transaction(ctx)
	if !ok || tx.DB() != t.raw {
		return false, nil
	}
	if !tx.Writable() {
		return false, errors.Wrap(errdefs.ErrFailedPrecondition, "write inside of a read transaction of the same database")
	}
	return true, nil
}

// apart refuses to run inside of a transaction. It guards calls that take a lock which, in other calls,
// is taken before the transaction: the mixed order would deadlock with garbage collection.
func (t *transactor) apart(ctx context.Context, what string) error {
	joined, err := t.joined(ctx)
	if err == nil && joined {
		err = errors.Wrapf(errdefs.ErrFailedPrecondition, "%s cannot take part in a transaction", what)
	}
	return err
}
