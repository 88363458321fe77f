package metadata

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/pkg/errors"
)

// writeBehind holds the values that are written some time later. A value is dropped when a
// transaction with it has committed, so a reader that looks here first misses none.
type writeBehind struct {
	interval  time.Duration
	afterFunc func(time.Duration, func()) (stop func() bool)

	mu      sync.Mutex
	rows    map[string]map[string]pendingValue
	seq     uint64
	source  func(add func(id string, values ...Int)) // see LaterFrom
	due     bool                                     // source has something
	stop    func() bool                              // stops the timer, nil while none runs
	down    bool
	running sync.WaitGroup // the timer, or its function
}

type pendingValue struct {
	key string
	dt  []byte // envelope; nil for an integer, which is encoded when it is written or read
	num int64
	seq uint64
}

// envelope returns the value as it is stored.
func (v pendingValue) envelope() []byte {
	if v.dt != nil || v.key == "" {
		return v.dt
	}
	dt := append(make([]byte, 0, 32), `{"value":`...)
	return append(strconv.AppendInt(dt, v.num, 10), '}')
}

// Int is an integer to be stored under a key.
type Int struct {
	Key   string
	Value int64
}

// Later stores the JSON of values under their keys, without indexes, within the flush interval:
// what is pending by then, a later value of a key in place of an earlier one, is written in
// one transaction. Close and Flush write at once, and any other write of the record takes its
// pending values along, so their order is kept. What is pending for a record that does not
// exist by then is dropped. Items show the values at once, Scan and ReadRow once they are written.
func (s *Store) Later(id string, values map[string]any) error {
	if !s.gate.enter() {
		return errors.WithStack(ErrClosed)
	}
	defer s.gate.leave()
	if err := checkID(id); err != nil {
		return err
	}
	pending := make([]pendingValue, 0, len(values))
	for key, value := range values {
		if err := checkKey(key); err != nil {
			return err
		}
		dt, err := marshal(value)
		if err != nil {
			return err
		}
		if dt, err = envelope(dt, ""); err != nil {
			return err
		}
		pending = append(pending, pendingValue{key: key, dt: dt})
	}
	s.later.add(id, pending...)
	s.startLater()
	return nil
}

// LaterInts is Later for integers, for callers whose calls come by the million: a value that
// replaces one that is still pending costs no allocation.
func (s *Store) LaterInts(id string, values ...Int) error {
	if !s.gate.enter() {
		return errors.WithStack(ErrClosed)
	}
	defer s.gate.leave()
	if err := checkID(id); err != nil {
		return err
	}
	for _, v := range values {
		if err := checkKey(v.Key); err != nil {
			return err
		}
	}
	for _, v := range values {
		s.later.add(id, pendingValue{key: v.Key, num: v.Value})
	}
	s.startLater()
	return nil
}

// LaterFrom names a source of integers that are collected only when they are due: source hands what
// it has to add, which works as LaterInts, and forgets it. It is called with no lock held, by a
// flush and by Close, after LaterDue said that there is something. A store has one source.
func (s *Store) LaterFrom(source func(add func(id string, values ...Int))) {
	s.later.mu.Lock()
	defer s.later.mu.Unlock()
	s.later.source = source
}

// LaterDue tells that the source has something, which is written within the flush interval.
func (s *Store) LaterDue() error {
	if !s.gate.enter() {
		return errors.WithStack(ErrClosed)
	}
	defer s.gate.leave()
	s.later.mu.Lock()
	s.later.due = true
	s.later.mu.Unlock()
	s.startLater()
	return nil
}

// collect takes what the source has among the pending values.
func (l *writeBehind) collect() {
	l.mu.Lock()
	source, due := l.source, l.due
	l.due = false
	l.mu.Unlock()
	if source == nil || !due {
		return
	}
	source(func(id string, values ...Int) {
		for _, v := range values {
			l.add(id, pendingValue{key: v.Key, num: v.Value})
		}
	})
}

// Flush writes what Later left pending. What could not be written stays pending.
func (s *Store) Flush() error {
	if !s.gate.enter() {
		return errors.WithStack(ErrClosed)
	}
	defer s.gate.leave()
	return s.flushLater()
}

// flushLater is Flush for callers that the gate has let in, and for Close.
func (s *Store) flushLater() error {
	s.later.collect()
	ids := s.later.ids()
	if len(ids) == 0 {
		return nil
	}
	return s.commit(&op{run: func(t *txn) error {
		for id, seq := range ids {
			if b := rowBucket(t.tx, id); b == nil {
				t.afterCommit(func() { s.later.written(id, seq) })
			} else if err := t.fold(id, b); err != nil {
				return err
			}
		}
		return nil
	}})
}

// startLater starts the timer unless it runs or nothing is pending.
func (s *Store) startLater() {
	l := &s.later
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stop != nil || l.down || len(l.rows) == 0 && !l.due {
		return
	}
	l.running.Add(1)
	l.stop = l.afterFunc(l.interval, s.laterDue)
}

// laterDue is the timer's function.
func (s *Store) laterDue() {
	l := &s.later
	defer l.running.Done()
	l.mu.Lock()
	l.stop = nil
	l.mu.Unlock()
	if !s.gate.enter() {
		return // Close writes what is pending
	}
	defer s.gate.leave()
	if err := s.flushLater(); err != nil {
		log.G(context.Background()).WithError(err).Warn("cache metadata could not be written, it is tried again")
	}
	s.startLater()
}

// add puts values in place of those pending for the same keys.
func (l *writeBehind) add(id string, values ...pendingValue) {
	if len(values) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rows == nil {
		l.rows = make(map[string]map[string]pendingValue)
	}
	row := l.rows[id]
	if row == nil {
		row = make(map[string]pendingValue, len(values))
		l.rows[id] = row
	}
	l.seq++
	for _, v := range values {
		v.seq = l.seq
		row[v.key] = v
	}
}

// ids returns the records that values are pending for, with what is the newest of any by now.
func (l *writeBehind) ids() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[string]uint64, len(l.rows))
	for id := range l.rows {
		out[id] = l.seq
	}
	return out
}

// pending returns the values that are pending for a record, and what to tell written once
// they are in the database.
func (l *writeBehind) pending(id string) ([]pendingValue, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := l.rows[id]
	if len(row) == 0 {
		return nil, l.seq
	}
	out := make([]pendingValue, 0, len(row))
	for _, v := range row {
		out = append(out, v)
	}
	return out, l.seq
}

// value returns the pending envelope of one key, nil for none.
func (l *writeBehind) value(id, key string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows[id][key].envelope()
}

// written drops the values of a record up to seq.
func (l *writeBehind) written(id string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	row := l.rows[id]
	for key, v := range row {
		if v.seq <= seq {
			delete(row, key)
		}
	}
	if len(row) == 0 {
		l.dropRow(id)
	}
}

// dropped drops the values of a record that is gone.
func (l *writeBehind) dropped(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropRow(id)
}

// dropRow forgets a record and stops the timer with the last one.
func (l *writeBehind) dropRow(id string) {
	delete(l.rows, id)
	if len(l.rows) == 0 && !l.due && l.stop != nil && l.stop() {
		l.stop = nil
		l.running.Done()
	}
}

// shutdown stops the timer for good and waits for its function.
func (l *writeBehind) shutdown() {
	l.mu.Lock()
	l.down = true
	if l.stop != nil && l.stop() {
		l.stop = nil
		l.running.Done()
	}
	l.mu.Unlock()
	l.running.Wait()
}
