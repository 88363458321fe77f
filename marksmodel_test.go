package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

// medium is a second account of what is on disk: for each tree, when it was written last, and when what the
// machine had in memory was last flushed.
type medium struct {
	mu      sync.Mutex
	now     int
	written map[string]int // by the mutable record's ID
	flushed int
}

// write notes that a tree was written.
func (d *medium) write(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now++
	d.written[id] = d.now
}

// flush takes what was written before it begins.
func (d *medium) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushed = d.now
}

func (d *medium) onDisk(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.written[id] <= d.flushed
}

// Design section 5: at no time, whatever the order of writing, committing, flushing, failures and restarts, is there a row of a
// tree that is not on disk without its mark; and when everything is idle and flushed, none has one.
func TestNoTreeIsWithoutItsMark(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // a choice of tests
			disk := &medium{written: map[string]int{}}
			backend := []testutil.Option{testutil.Doubles(), testutil.JoinedDoubles()}[rnd.IntN(2)]
			s := &markScript{t: t, rnd: rnd, disk: disk, tree: map[string]string{}, mounted: map[string]bool{}}
			env := testutil.New(t, backend, testutil.WithManagerOpt(func(o *cache.ManagerOpt) {
				inner := o.SyncFS // passes the fault points
				o.SyncFS = func(ctx context.Context) error {
					if err := inner(ctx); err != nil {
						return err
					}
					disk.flush()
					s.meanwhile()
					return nil
				}
				o.Sync = seed%3 == 0
			}))
			s.env = env
			for range 60 {
				s.step()
				s.check()
			}
			s.letGo()
			s.idle = nil // nobody writes any more
			env.Clock.Advance(2 * time.Minute)
			require.Empty(t, marked(t, env))
			env.Reopen() // finishes what failing transactions have left
		})
	}
}

// markScript does something at random.
type markScript struct {
	t    *testing.T
	env  *testutil.Env
	rnd  *rand.Rand
	disk *medium

	writers []cache.MutableRef
	imms    []cache.ImmutableRef
	idle    []string
	// tree maps the name of a record's half to the name its tree was written under.
	tree map[string]string
	// mounted are the writers' IDs whose tree they have at hand.
	mounted map[string]bool
}

// take removes one of a list at random.
func take[T any](s *markScript, list *[]T) (v T, ok bool) {
	if len(*list) == 0 {
		return v, false
	}
	i := s.rnd.IntN(len(*list))
	v = (*list)[i]
	*list = slices.Delete(*list, i, i+1)
	return v, true
}

func (s *markScript) write(ref cache.MutableRef) {
	if s.mounted[ref.ID()] && s.rnd.IntN(2) == 0 {
		s.disk.write(s.tree[ref.ID()]) // through the mount it has
		return
	}
	if _, err := ref.Mount(ctx, false, nil); err == nil {
		s.disk.write(s.tree[ref.ID()])
		s.mounted[ref.ID()] = true
	}
}

// meanwhile is what happens after a flush has begun and before its result is stored: somebody writes.
func (s *markScript) meanwhile() {
	if s.env == nil || s.env.Manager == nil || len(s.idle) == 0 || s.rnd.IntN(2) == 0 {
		return
	}
	id := s.idle[s.rnd.IntN(len(s.idle))]
	ref, err := s.env.Manager.GetMutable(ctx, id)
	if err != nil {
		return
	}
	s.write(ref)
	s.release(ref)
}

func (s *markScript) release(ref cache.MutableRef) {
	delete(s.mounted, ref.ID())
	_ = ref.Release(ctx) // the claim ends, whatever it returns
}

func (s *markScript) step() {
	t, m := s.t, s.env.Manager
	if s.rnd.IntN(6) == 0 { // the next flush, or transaction, fails
		op := []string{fault.OpSyncFS, fault.OpDBUpdate}[s.rnd.IntN(2)]
		when := []fault.When{fault.Before, fault.After}[s.rnd.IntN(2)]
		injected := s.env.Faults.Inject(fault.Match{Op: op, When: when}, fault.Fail(errBackend))
		defer injected.Remove()
	}
	switch s.rnd.IntN(10) {
	case 0, 1:
		if ref, err := m.New(ctx, nil, nil, cache.CachePolicyRetain); err == nil {
			s.tree[ref.ID()] = ref.ID()
			s.writers = append(s.writers, ref)
			s.write(ref)
		}
	case 2, 3:
		if len(s.writers) > 0 {
			s.write(s.writers[s.rnd.IntN(len(s.writers))])
		}
	case 4:
		if ref, ok := take(s, &s.writers); ok {
			s.idle = append(s.idle, ref.ID())
			s.release(ref)
		}
	case 5:
		if id, ok := take(s, &s.idle); ok {
			if ref, err := m.GetMutable(ctx, id); err == nil {
				s.writers = append(s.writers, ref)
				s.write(ref)
			}
		}
	case 6:
		if ref, ok := take(s, &s.writers); ok {
			imm, err := ref.Commit(ctx)
			if err != nil {
				s.writers = append(s.writers, ref)
				break
			}
			delete(s.mounted, ref.ID())
			s.tree[imm.ID()] = s.tree[ref.ID()]
			s.imms = append(s.imms, imm)
		}
	case 7:
		if ref, ok := take(s, &s.imms); ok {
			_ = ref.Finalize(ctx)
			_ = ref.Release(ctx)
		}
	case 8:
		s.env.Clock.Advance(31 * time.Second)
	case 9:
		s.letGo()
		s.env.Crash()
		require.NoError(t, s.tryOpen())
	}
}

// tryOpen opens the cache, at the second try at the latest.
func (s *markScript) tryOpen() error {
	if err := s.env.TryOpen(ctx); err == nil {
		return nil
	}
	s.env.Faults.Reset()
	return s.env.TryOpen(ctx)
}

// letGo releases everything.
func (s *markScript) letGo() {
	for _, ref := range s.writers {
		s.idle = append(s.idle, ref.ID())
		s.release(ref)
	}
	for _, ref := range s.imms {
		_ = ref.Release(ctx)
	}
	s.writers, s.imms = nil, nil
}

func (s *markScript) check() {
	for id, row := range rowsOf(s.t, s.env) {
		if row["cache.deleted"] != "" {
			continue
		}
		if half := row["cache.equalMutable"]; s.tree[id] == "" && len(half) > 2 {
			s.tree[id] = s.tree[half[1:len(half)-2]] // made by a Commit that failed
		}
		tree := s.tree[id]
		if tree == "" {
			tree = id // made by a New that failed
		}
		if !s.disk.onDisk(tree) {
			require.NotEmpty(s.t, row[keyUnsynced], "row %s, whose tree %s is not on disk", id, tree)
		}
	}
}
