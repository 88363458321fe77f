package cache

import (
	"sync"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// marks knows which rows say that their tree is not on disk yet (keyUnsynced). A row has its mark from before the
// first byte is written: New stores it with the row, and Mount does before it hands out a tree
// whose mark was taken off. It is taken off only by what was seen here before a flush began, and
// not written to since. So memory is never without a mark that a row has, and a mark that is in memory
// alone costs no more than a needless flush.
//
// Merges and diffs may share a snapshot, and any of them may be the one that makes it and the one that is left. So all of
// their rows have the mark while it is not on disk.
type marks struct {
	mu   sync.Mutex
	rows map[string]*mark
	// making counts, by snapshot, who is making the tree of a merge or a diff.
	making map[string]int
	// seq numbers what begins to be written.
	seq uint64
	// stop stops the timer of the next flush; nil while none runs.
	stop func() bool
	// busy tells that the timer's function is at work, and down that there is to be no further one.
	busy, down bool
}

// mark is the mark on one row.
type mark struct {
	rec  *graph.Record
	boot string // the value on disk
	// tree is the snapshot of a merge or a diff, "" for a layer.
	tree string
	// seq is when writing began last.
	seq uint64
	// stored tells that the row has it for sure.
	stored bool
	// clearing tells that it is being taken off the row.
	clearing bool
	// lost tells that bytes of it may have been given up by a flush that failed. It stays.
	lost bool
}

// markRow writes a mark, "" for none, in the transaction that writes the row.
func markRow(row *metadata.RowWriter, boot string) error {
	if boot == "" {
		return nil
	}
	return row.Set(keyUnsynced, boot, "")
}

// of returns the mark of a row, "" for none.
func (k *marks) of(id string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.rows[id]; e != nil {
		return e.boot
	}
	return ""
}

// add notes a mark that a row has (stored), or is about to get. tree is the snapshot of a merge or a diff.
func (k *marks) add(rec *graph.Record, id, tree, boot string, stored bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addLocked(rec, id, tree, boot, stored)
}

func (k *marks) addLocked(rec *graph.Record, id, tree, boot string, stored bool) {
	if k.rows == nil {
		k.rows = map[string]*mark{}
	}
	k.seq++
	e := &mark{rec: rec, tree: tree, boot: boot, seq: k.seq, stored: stored}
	if old := k.rows[id]; old != nil {
		e.lost = old.lost
	}
	k.rows[id] = e
}

// beginTree notes that the tree of a merge or a diff is being made, so that no mark of it is taken off before endTree.
func (k *marks) beginTree(tree string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.making == nil {
		k.making = map[string]int{}
	}
	k.making[tree]++
}

// endTree notes that all of a tree is written, which a flush that began earlier may have missed.
func (k *marks) endTree(tree string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.making[tree]--; k.making[tree] == 0 {
		delete(k.making, tree)
	}
	for _, e := range k.rows {
		if e.tree == tree {
			k.seq++
			e.seq = k.seq
		}
	}
}

// unflushed tells whether a tree is being made, or was and is not known to be on disk.
func (k *marks) unflushed(tree string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.making[tree] > 0 {
		return true
	}
	for _, e := range k.rows {
		if e.tree == tree {
			return true
		}
	}
	return false
}

// addAll adds marks to the records of one tree, and returns the names of those whose rows are still to get it.
func (k *marks) addAll(recs map[string]*graph.Record, tree, boot string) (unstored []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, rec := range recs {
		if e := k.rows[id]; e != nil && e.stored && !e.clearing {
			k.seq++
			e.seq = k.seq
			continue
		}
		k.addLocked(rec, id, tree, boot, false)
		unstored = append(unstored, id)
	}
	return unstored
}

// touch notes that a row's tree is about to be written to, and tells whether the row has its mark for sure.
func (k *marks) touch(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.rows[id]
	if e == nil || !e.stored || e.clearing {
		return false
	}
	k.seq++
	e.seq = k.seq
	return true
}

// stored notes that rows have the marks that add announced.
func (k *marks) stored(ids ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		if e := k.rows[id]; e != nil {
			e.stored = true
		}
	}
}

func (k *marks) drop(ids ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		delete(k.rows, id)
	}
}

// isLost tells whether the bytes of a row may have been given up.
func (k *marks) isLost(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.rows[id]
	return e != nil && e.lost
}

// lose notes that a flush failed for good: what was written before is as likely lost as not.
func (k *marks) lose() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.rows {
		e.lost = true
	}
}

// candidates returns the records whose marks may be taken off after a flush that begins later than this
// call, and what has to be passed to beginClear.
func (k *marks) candidates(boot string) (recs map[string]*graph.Record, cut uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	recs = make(map[string]*graph.Record, len(k.rows))
	for id, e := range k.rows {
		if e.boot == boot && !e.lost && k.making[e.tree] == 0 {
			recs[id] = e.rec
		}
	}
	return recs, k.seq
}

// madeTrees is candidates for merges and diffs only, to which nobody writes but who makes them.
func (k *marks) madeTrees(boot string) (recs map[string]*graph.Record, cut uint64) {
	recs, cut = k.candidates(boot)
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range recs {
		if e := k.rows[id]; e == nil || e.tree == "" {
			delete(recs, id)
		}
	}
	return recs, cut
}

// beginClear says of which rows marks are to be taken off: those that nobody began to write to after cut.
func (k *marks) beginClear(recs map[string]*graph.Record, cut uint64) (ids []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range recs {
		if e := k.rows[id]; e != nil && e.seq <= cut && !e.lost && k.making[e.tree] == 0 {
			e.clearing = true
			ids = append(ids, id)
		}
	}
	return ids
}

// clearing tells whether a mark is still to be taken off. It is asked within the transaction, so what Mount stores after
// it has put an end to that is ordered behind it.
func (k *marks) clearing(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.rows[id]
	return e != nil && e.clearing
}

// endClear notes what became of taking marks off. After an error nobody knows.
func (k *marks) endClear(ids []string, done bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		e := k.rows[id]
		switch {
		case e == nil || !e.clearing:
		case done:
			delete(k.rows, id)
		default:
			e.clearing, e.stored = false, false
		}
	}
}
