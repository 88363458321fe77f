package metadata

import (
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/pkg/errors"
)

// Group commit. A write is an op in a queue. Whoever finds the queue without a leader leads:
// it runs the ops that are queued by the time its transaction has begun in that transaction,
// commits, tells their callers and passes the lead to the first caller that came since. So
// writes share a transaction exactly while another one is under way, and no goroutine is kept.

// op is one caller's write.
type op struct {
	run  func(*txn) error
	solo bool      // runs once, in a transaction and on a goroutine of its own
	turn chan bool // true: lead; false: done

	err   error
	panic *panicError // of run, to be raised by its caller
}

type commitQueue struct {
	mu  sync.Mutex
	ops []*op // the first one leads, or is about to
	led bool
}

// maxBatch bounds what one failing op makes run again.
const maxBatch = 256

// errAborted is the result of ops whose leader's goroutine ended within its callback.
var errAborted = errors.New("metadata transaction was abandoned")

// writeShared runs fn in a transaction that it may share with other callers, more than once.
func (s *Store) writeShared(fn func(*txn) error) error {
	return s.enqueue(&op{run: fn})
}

// writeAlone runs fn once, in a transaction of its own.
func (s *Store) writeAlone(fn func(*txn) error) error {
	return s.enqueue(&op{run: fn, solo: true})
}

func (s *Store) enqueue(o *op) error {
	if !s.gate.enter() {
		return errors.WithStack(ErrClosed)
	}
	defer s.gate.leave()
	return s.commit(o)
}

func (s *Store) commit(o *op) error {
	o.turn = make(chan bool, 1)
	q := &s.commits
	q.mu.Lock()
	q.ops = append(q.ops, o)
	wait := q.led
	q.led = true
	q.mu.Unlock()
	if !wait || <-o.turn {
		s.lead(o)
	}
	if o.panic != nil {
		panic(o.panic)
	}
	return o.err
}

// take removes the leader's op from the queue and with it those that follow, up to limit
// and up to one that runs alone.
func (q *commitQueue) take(limit int) []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 1
	for n < min(limit, len(q.ops)) && !q.ops[0].solo && !q.ops[n].solo {
		n++
	}
	batch := append([]*op(nil), q.ops[:n]...)
	q.ops = append([]*op(nil), q.ops[n:]...)
	for _, o := range batch {
		o.err = errAborted
	}
	return batch
}

// lead runs the ops at the head of the queue, of which self is the first.
func (s *Store) lead(self *op) {
	var taken []*op
	defer func() {
		if taken == nil {
			taken = s.commits.take(1)
		}
		for _, o := range taken {
			if o != self {
				o.turn <- false
			}
		}
		q := &s.commits
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.led = len(q.ops) > 0; q.led {
			q.ops[0].turn <- true
		}
	}()

	var batch, aside []*op
	err := s.update(func(t *txn) error {
		taken = s.commits.take(maxBatch)
		batch = append(batch, taken...)
		return runOps(t, &batch, &aside)
	})
	if taken == nil { // the transaction did not begin
		taken = s.commits.take(1)
		self.err = err
		return
	}
	// Each round leaves the op that failed out, so that its neighbours are committed.
	for errors.Is(err, errSetAside) && len(batch) > 0 {
		err = s.update(func(t *txn) error { return runOps(t, &batch, &aside) })
	}
	for _, o := range batch {
		o.err = err
	}
	// What failed may have failed over a change of a neighbour that was never committed.
	// Alone it fails for good.
	for _, o := range aside {
		o.err = s.update(o.call)
	}
}

var errSetAside = errors.New("a change in the transaction failed")

// runOps runs a batch. An op that fails is moved from batch to aside; the first one, which
// saw nothing but what is committed, has failed for good.
func runOps(t *txn, batch, aside *[]*op) error {
	for i, o := range *batch {
		err := o.call(t)
		if err == nil {
			continue
		}
		if i == 0 {
			o.err = err
		} else {
			*aside = append(*aside, o)
		}
		*batch = append((*batch)[:i:i], (*batch)[i+1:]...)
		return errSetAside
	}
	return nil
}

// panicError carries a panic of a callback to the goroutine that passed the callback in.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

func (p *panicError) Unwrap() error {
	err, _ := p.value.(error)
	return err
}

// call runs the op. A panic becomes an error, so that the transaction is rolled back the
// ordinary way.
func (o *op) call(t *txn) (err error) {
	o.panic = nil
	done := false
	defer func() {
		if done {
			return
		}
		if panicOfDamage() {
			err = t.s.damaged(recover())
		} else if v := recover(); v != nil {
			o.panic = &panicError{value: v, stack: debug.Stack()}
			err = o.panic
		}
	}()
	err = o.run(t)
	done = true
	return err
}
