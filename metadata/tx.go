package metadata

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// errUnchanged rolls back a write transaction that has nothing to commit.
var errUnchanged = errors.New("nothing changed")

// view runs fn in a read transaction.
func (s *Store) view(fn func(*bolt.Tx) error) (err error) {
	if !s.gate.enter() {
		return errors.WithStack(ErrClosed)
	}
	defer s.gate.leave()
	done := false
	defer func() {
		if !done && panicOfDamage() {
			err = s.damaged(recover())
		}
	}()
	// A damaged file may also show as a fault on its mapping.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = translate(s.db.View(fn))
	done = true
	return err
}

// update runs fn in a write transaction and, once that is committed, what fn registered with
// afterCommit. Only the leader of the commit queue calls it, so nothing is written in between.
func (s *Store) update(fn func(*txn) error) (err error) {
	if s.corrupt.Load() {
		return errors.WithMessage(ErrCorrupt, "refusing to write after damage was found")
	}
	done := false
	defer func() {
		if !done && panicOfDamage() {
			err = s.damaged(recover())
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var t *txn
	err = s.db.Update(func(tx *bolt.Tx) error {
		t = &txn{s: s, tx: tx}
		if err := fn(t); err != nil {
			return err
		}
		// bbolt copies a page into a node before it changes it.
		if stats := tx.Stats(); stats.GetNodeCount() == 0 {
			return errUnchanged
		}
		return nil
	})
	done = true
	if err != nil && !errors.Is(err, errUnchanged) {
		return translate(err)
	}
	for _, fn := range t.committed {
		fn()
	}
	return nil
}

// damaged turns a panic over a damaged page into an error and stops further writing.
func (s *Store) damaged(reason any) error {
	s.corrupt.Store(true)
	if f, ok := s.db.(*file); ok {
		f.asIs.Store(true)
	}
	return errors.Wrap(ErrCorrupt, fmt.Sprint(reason))
}

// panicOfDamage tells, in a deferred function, whether the goroutine panics because bbolt met
// something it cannot work with or because the file's mapping faulted. A panic of a caller's
// own, a nil bucket among them, is left to go on with its stack.
func panicOfDamage() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	panicking := false
	for {
		f, more := frames.Next()
		switch {
		case f.Function == "runtime.gopanic":
			panicking = true
		case f.Function == "runtime.panicmemAddr":
			return true
		case f.Function == "runtime.panicmem":
			return false
		case panicking && !strings.HasPrefix(f.Function, "runtime."):
			return strings.HasPrefix(f.Function, "go.etcd.io/bbolt")
		}
		if !more {
			return false
		}
	}
}
