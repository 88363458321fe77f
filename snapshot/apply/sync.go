package apply

import (
	"context"
	"sync"

	"github.com/pkg/errors"
)

// syncer brings filesystems to disk. A sync takes everything of its filesystem along, so one serves all who wait when it
// begins; who comes while it runs may have files that it has passed by, and waits for the next.
type syncer struct {
	mu    sync.Mutex
	disks map[any]*syncQueue // by what disks call themselves; only those in use
}

// syncQueue is one filesystem's.
type syncQueue struct {
	users int
	turn  chan struct{} // held by whoever syncs
	next  *syncRound    // what callers wait for now; nil if nobody does
}

// syncRound is one sync.
type syncRound struct {
	done chan struct{}
	err  error // once done is closed
}

// sync returns once all that was written to the disk before the call is on it.
func (s *syncer) sync(ctx context.Context, d *disk) error {
	q, round := s.enter(d.id)
	defer s.leave(d.id, q)
	select {
	case <-round.done:
		return round.err
	case <-ctx.Done():
		return errors.Wrap(ctx.Err(), "waiting for files to be synced")
	case q.turn <- struct{}{}:
	}
	defer func() { <-q.turn }()
	select {
	case <-round.done: // just before it was our turn
		return round.err
	default:
	}
	s.mu.Lock()
	q.next = nil // from now on it would be too late for newcomers
	s.mu.Unlock()
	round.err = errors.Wrap(d.sync(ctx), "syncing the unpacked files")
	close(round.done)
	return round.err
}

func (s *syncer) enter(id any) (*syncQueue, *syncRound) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.disks[id]
	if q == nil {
		if s.disks == nil {
			s.disks = map[any]*syncQueue{}
		}
		q = &syncQueue{turn: make(chan struct{}, 1)}
		s.disks[id] = q
	}
	q.users++
	if q.next == nil {
		q.next = &syncRound{done: make(chan struct{})}
	}
	return q, q.next
}

func (s *syncer) leave(id any, q *syncQueue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.users--; q.users == 0 {
		delete(s.disks, id)
	}
}
