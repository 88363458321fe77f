package local

import (
	"context"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// Group commit (docs/adr/0040). Whoever gets the turn leads: he opens a transaction, does his part of it, invites
// those who wait, one after the other, to do theirs, and commits for all. Everybody runs his part on his own goroutine, so that
// a panic is its caller's, and returns when the transaction has ended. Nobody is waited for who is not there.

// maxGroup bounds how long the first has to wait for the others' parts, garbage collection for all of them, and
// how much one failure makes run again.
const maxGroup = 32

// group is one transaction and those who have a part in it. One of them at a time works on it: the leader, or the
// one he waits for.
type group struct {
	tx  *bolt.Tx
	log *undoLog
	// ran is how a member gives the transaction back to the leader.
	ran chan outcome
	// over is closed when the transaction has ended and, if it failed, everything has been taken back. spoiled and err are
	// set by then.
	over    chan struct{}
	spoiled bool // by the failure of a member, for everybody
	err     error
}

type outcome uint8

const (
	succeeded outcome = iota
	failed
	declined // did nothing
)

// errSpoiled rolls a transaction back in which a member failed.
var errSpoiled = errors.New("another part of the transaction failed")

// waiting is a queue of callers.
type waiting struct {
	sync.Mutex
	callers []*caller
}

// caller waits for a transaction.
type caller struct {
	// invited gets the group that the caller is to have a part in, once at most, after he was taken from the queue.
	invited chan *group
}

func (w *waiting) add() *caller {
	c := &caller{invited: make(chan *group, 1)}
	w.Lock()
	defer w.Unlock()
	w.callers = append(w.callers, c)
	return c
}

// remove takes a caller from the queue. If he is not in it, he is being invited.
func (w *waiting) remove(c *caller) bool {
	w.Lock()
	defer w.Unlock()
	i := slices.Index(w.callers, c)
	if i < 0 {
		return false
	}
	w.callers = slices.Delete(w.callers, i, i+1)
	return true
}

// next takes the caller from the queue who came first, nil if there is none.
func (w *waiting) next() *caller {
	w.Lock()
	defer w.Unlock()
	if len(w.callers) == 0 {
		return nil
	}
	c := w.callers[0]
	w.callers = slices.Delete(w.callers, 0, 1)
	return c
}

// share runs fn in a transaction that others may have a part in. again tells that they spoiled it: all that fn did has been taken
// back, and it is to run once more.
func (t *transactor) share(ctx context.Context, fn func(context.Context) error) (again bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, errors.WithStack(err)
	}
	select {
	case t.turn <- struct{}{}:
		defer t.leave()
		return t.lead(ctx, fn, maxGroup)
	default:
	}
	c := t.waiting.add()
	select {
	case t.turn <- struct{}{}:
		t.waiting.remove(c) // who has been invited has answered before the turn comes free
		defer t.leave()
		return t.lead(ctx, fn, maxGroup)
	case g := <-c.invited:
		return g.join(ctx, fn)
	case <-ctx.Done():
		if !t.waiting.remove(c) {
			g := <-c.invited
			g.ran <- declined
		}
		return false, errors.Wrap(ctx.Err(), waitingForTurn)
	}
}

// lead runs fn in a transaction, and after it the parts of those who wait, until there are limit or nobody waits any more. It
// is the caller's turn.
func (t *transactor) lead(ctx context.Context, fn func(context.Context) error, limit int) (again bool, err error) {
	g := &group{ran: make(chan outcome), over: make(chan struct{})}
	ctx, g.log = withUndo(ctx)
	err = errors.New("panic") // stays if fn panics
	defer func() {
		g.log.finish(ctx, err) // while it is still our turn, so that nobody reuses the names
		g.err = err
		close(g.over)
	}()
	err = t.db.Update(func(tx *bolt.Tx) error {
		g.tx = tx
		if err := fn(boltutil.WithTransaction(ctx, tx)); err != nil {
			return err
		}
		return g.invite(&t.waiting, limit)
	})
	return g.spoiled, err
}

// invite has those who wait do their parts. After something that cannot be taken back nobody else may fail.
func (g *group) invite(w *waiting, limit int) error {
	for members := 1; members < limit && !g.log.final; {
		c := w.next()
		if c == nil {
			break
		}
		c.invited <- g
		switch <-g.ran {
		case succeeded:
			members++
		case failed:
			g.spoiled = true
			return errSpoiled
		case declined:
		}
	}
	return nil
}

// join does a member's part, and waits for the end of the transaction. again is as with share. What failed may have failed
// over what another one had not committed yet, so that it runs again, too, unless it did what cannot be taken back.
func (g *group) join(ctx context.Context, fn func(context.Context) error) (again bool, err error) {
	returned := false // stays if fn panics
	defer func() {
		if returned && err == nil {
			g.ran <- succeeded
			<-g.over
			again, err = g.spoiled, g.err
			return
		}
		again = !g.log.final
		g.ran <- failed
		<-g.over // a panic goes on when everything has been taken back, too
	}()
	err = fn(boltutil.WithTransaction(g.log.with(ctx), g.tx))
	returned = true
	return false, err
}
