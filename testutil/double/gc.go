package double

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/gc"
)

// The labels that garbage collection goes by. References are labels of the thing that refers,
// back references of the thing that wants to live as long as another.
const (
	labelRoot         = "containerd.io/gc.root"
	labelExpire       = "containerd.io/gc.expire"
	labelFlat         = "containerd.io/gc.flat"
	labelContentRef   = "containerd.io/gc.ref.content"
	labelSnapshotRef  = "containerd.io/gc.ref.snapshot."
	labelContentBref  = "containerd.io/gc.bref.content"
	labelSnapshotBref = "containerd.io/gc.bref.snapshot."
)

const (
	nodeLease gc.ResourceType = iota
	nodeContent
	nodeSnapshot
	nodeIngest
	// flat is a bit that gc.Tricolor strips: the thing is kept, but what its labels name is not.
	flat gc.ResourceType = 0x20
)

type stats time.Duration

// Elapsed returns how long the collection took.
func (s stats) Elapsed() time.Duration { return time.Duration(s) }

// GC removes what no lease that has not expired, no root label and no reference keeps: leases,
// snapshots, blobs and ingests. It excludes transactions while it decides. It must not be called
// inside a transaction. As in containerd, what has no entry goes only if an entry went as well, here
// or before, a snapshot's for snapshots, a blob's or an ingest's for content; the latter not before the
// first blob was stored.
func (b *Backend) GC(ctx context.Context) (gc.Stats, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	start := time.Now()
	b.writer.Lock()
	err := b.transact(func(tx *tx) error {
		c := &collection{tx: tx, backRefs: map[gc.Node][]gc.Node{}}
		reachable, err := gc.Tricolor(c.roots(), c.references)
		if err != nil {
			return err
		}
		keep := func(t gc.ResourceType, key string) bool {
			_, ok := reachable[gc.Node{Type: t, Key: key}]
			return ok
		}
		sweep(&tx.leases, func(key string) bool { return keep(nodeLease, key) })
		snaps := sweep(&tx.snaps, func(key string) bool { return keep(nodeSnapshot, key) })
		blobs := sweep(&tx.blobs, func(key string) bool { return keep(nodeContent, key) })
		ingests := sweep(&tx.ingests, func(key string) bool { return keep(nodeIngest, key) })
		b.snapDirty, b.contDirty = b.snapDirty || snaps, b.contDirty || blobs || ingests
		return nil
	})
	snapDirty, contDirty := b.snapDirty, b.contDirty
	if err == nil {
		b.snapDirty, b.contDirty = false, false
	}
	if !b.join {
		b.writer.Unlock()
	}
	if err == nil && snapDirty {
		err = b.sweepSnapshots()
	}
	if b.join {
		// A transaction makes snapshots that no committed entry names yet: those of the next one must
		// not be swept.
		b.writer.Unlock()
	}
	if err != nil {
		return nil, err
	}
	if contDirty {
		b.sweepContent()
	}
	return stats(time.Since(start)), nil
}

// sweep removes the entries that are not to be kept and returns whether there were any.
func sweep[V any](t *table[V], keep func(string) bool) (removed bool) {
	for _, key := range t.keys() {
		if !keep(key) {
			t.del(key)
			removed = true
		}
	}
	return removed
}

// sweepSnapshots removes the snapshots that no entry names.
func (b *Backend) sweepSnapshots() error {
	b.snapLock.Lock()
	defer b.snapLock.Unlock()
	used := map[string]bool{}
	b.mu.RLock()
	for _, s := range b.mu.snaps {
		used[s.backendKey] = true
	}
	b.mu.RUnlock()
	return b.disk.sweepSnapshots(used)
}

// sweepContent removes the blobs and ingests that no entry names.
func (b *Backend) sweepContent() {
	b.contLock.Lock()
	defer b.contLock.Unlock()
	blobs, refs := map[string]bool{}, map[string]bool{}
	b.mu.RLock()
	for dgst := range b.mu.blobs {
		blobs[dgst] = true
	}
	for _, i := range b.mu.ingests {
		refs[i.backendRef] = true
		blobs[i.expected.String()] = true
	}
	b.mu.RUnlock()
	b.disk.sweepContent(blobs, refs)
}

// collection is one run of the marking phase.
type collection struct {
	tx       *tx
	backRefs map[gc.Node][]gc.Node
}

// roots returns what is in use for certain, and gathers the back references on the way.
func (c *collection) roots() []gc.Node {
	now := c.tx.b.now()
	var roots []gc.Node
	for _, id := range c.tx.leases.keys() {
		l, _ := c.tx.leases.get(id)
		if expires, err := time.Parse(time.RFC3339, l.labels[labelExpire]); err == nil && now.After(expires) {
			continue
		}
		roots = append(roots, gc.Node{Type: nodeLease, Key: id})
		var bit gc.ResourceType
		if _, ok := l.labels[labelFlat]; ok {
			bit = flat
		}
		for _, r := range l.resources {
			switch r.Type {
			case typeContent:
				roots = append(roots, gc.Node{Type: nodeContent | bit, Key: r.ID})
			case typeIngests:
				roots = append(roots, gc.Node{Type: nodeIngest, Key: r.ID})
			case typeSnapshots + c.tx.b.name:
				roots = append(roots, gc.Node{Type: nodeSnapshot | bit, Key: r.ID})
			}
		}
	}
	for _, ref := range c.tx.ingests.keys() {
		if i, _ := c.tx.ingests.get(ref); !i.expires.IsZero() && !now.After(i.expires) {
			roots = append(roots, gc.Node{Type: nodeIngest, Key: ref})
		}
	}
	for _, key := range c.tx.blobs.keys() {
		e, _ := c.tx.blobs.get(key)
		roots = append(roots, c.scan(gc.Node{Type: nodeContent, Key: key}, e.labels)...)
	}
	for _, key := range c.tx.snaps.keys() {
		e, _ := c.tx.snaps.get(key)
		roots = append(roots, c.scan(gc.Node{Type: nodeSnapshot, Key: key}, e.labels)...)
	}
	return roots
}

// scan notes the back references of a node and returns it if it is a root.
func (c *collection) scan(node gc.Node, labels map[string]string) (root []gc.Node) {
	for name, value := range labels {
		if strings.HasPrefix(name, labelRoot) {
			root = []gc.Node{node}
		}
		if target, ok := c.target(name, value, labelContentBref, labelSnapshotBref); ok {
			c.backRefs[target] = append(c.backRefs[target], node)
		}
	}
	return root
}

// target returns what a label refers to. A content label may carry a name after a dot or slash, a
// snapshot label names the snapshotter and may carry a name after a slash.
func (c *collection) target(name, value, contentLabel, snapshotLabel string) (gc.Node, bool) {
	if rest, ok := strings.CutPrefix(name, contentLabel); ok && (rest == "" || rest[0] == '.' || rest[0] == '/') {
		return gc.Node{Type: nodeContent, Key: value}, true
	}
	if rest, ok := strings.CutPrefix(name, snapshotLabel); ok {
		if name, _, _ := strings.Cut(rest, "/"); name == c.tx.b.name {
			return gc.Node{Type: nodeSnapshot, Key: value}, true
		}
	}
	return gc.Node{}, false
}

func (c *collection) references(node gc.Node) ([]gc.Node, error) {
	refs := c.backRefs[node]
	var labels map[string]string
	switch node.Type &^ flat {
	case nodeContent:
		e, _ := c.tx.blobs.get(node.Key)
		labels = e.labels
	case nodeSnapshot:
		e, ok := c.tx.snaps.get(node.Key)
		if ok && e.parent != "" {
			refs = append(refs[:len(refs):len(refs)], gc.Node{Type: node.Type, Key: e.parent})
		}
		labels = e.labels
	case nodeIngest:
		if e, ok := c.tx.ingests.get(node.Key); ok && e.expected != "" {
			refs = append(refs[:len(refs):len(refs)], gc.Node{Type: nodeContent, Key: e.expected.String()})
		}
	}
	if node.Type&flat != 0 {
		return refs, nil
	}
	for name, value := range labels {
		if target, ok := c.target(name, value, labelContentRef, labelSnapshotRef); ok {
			refs = append(refs[:len(refs):len(refs)], target)
		}
	}
	return refs, nil
}
