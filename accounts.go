package cache

import (
	"context"
	stderrors "errors"
	"runtime"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// This file finds out what records occupy, and whose it is where several own the same.

// object is a physical thing, a snapshot or a blob.
type object struct {
	snapshot bool
	id       string
}

// accounts are one view of all records with what they own. A thing that several own is counted once, at the oldest of
// them, and at the next when that one goes (spec SIZE-6, quirk Q24).
type accounts struct {
	views []graph.View
	// owners tells of each thing that more than one record could own where it is counted.
	owners map[object]owner
	// owned lists, by the indexes of their views, all who own what has several owners. See allOwners.
	owned map[object][]int
}

// owner is where a thing is counted.
type owner struct {
	// view is the index of the record.
	view int
	// several says that it is not the only one.
	several bool
	// size is what one of them was measured with.
	size int64
}

// account measures those of the views that are wanted, by their indexes, as far as that is not known, and tells apart what several
// records own. An error leaves what could not be measured at 0.
func (m *manager) account(ctx context.Context, views []graph.View, wanted []int) (*accounts, error) {
	var unknown []*measuring
	for _, i := range wanted {
		v := &views[i]
		if v.Mutable && v.InUse { // it is being written (spec DU-5)
			v.Size, v.Parts, v.Own = 0, nil, nil
		} else if v.Size < 0 {
			unknown = append(unknown, &measuring{at: i})
		}
	}
	err := m.measure(ctx, views, unknown)
	a := &accounts{views: views, owners: map[object]owner{}}
	for i := range views {
		a.learn(i)
	}
	for _, u := range unknown {
		if u.known && a.shares(u.at) { // else Totals would count what is shared at each of them
			m.g.SetSize(views[u.at].Record, u.gen, u.size, u.parts)
		}
	}
	var whole []*graph.View
	for _, i := range wanted {
		if v := &views[i]; v.Parts == nil && v.Size > 0 && a.shares(i) {
			whole = append(whole, v)
		}
	}
	if len(whole) == 0 {
		return a, err
	}
	err = stderrors.Join(err, m.split(ctx, whole))
	for i := range views { // what was found out may be others', too
		a.learn(i)
	}
	return a, err
}

// partsOf lists what is known of what a record owns: what was measured, and what others may have made of it since then.
func partsOf(v *graph.View) []graph.Part {
	if len(v.Parts) == 0 {
		return v.Own
	}
	parts := v.Parts
	for _, own := range v.Own {
		if !slices.ContainsFunc(v.Parts, func(p graph.Part) bool { return p.Snapshot == own.Snapshot && p.ID == own.ID }) {
			parts = append(parts[:len(parts):len(parts)], own)
		}
	}
	return parts
}

// learn notes what a record owns.
func (a *accounts) learn(i int) {
	for _, p := range partsOf(&a.views[i]) {
		key := object{p.Snapshot, p.ID}
		at, ok := a.owners[key]
		switch {
		case !ok:
			at.view = i
		case at.view == i:
		default:
			at.several = true
			if older(&a.views[i], &a.views[at.view]) {
				at.view = i
			}
		}
		at.size = max(at.size, p.Size)
		a.owners[key] = at
	}
}

func older(a, b *graph.View) bool {
	if a.Meta.CreatedAt != b.Meta.CreatedAt {
		return a.Meta.CreatedAt < b.Meta.CreatedAt
	}
	return a.Meta.ID < b.Meta.ID
}

// shares tells whether a record owns anything that another one owns, too.
func (a *accounts) shares(i int) bool {
	for _, p := range partsOf(&a.views[i]) {
		if a.owners[object{p.Snapshot, p.ID}].several {
			return true
		}
	}
	return false
}

// size is what is counted at a record.
func (a *accounts) size(i int) int64 {
	v := &a.views[i]
	if v.Parts == nil {
		return max(v.Size, 0)
	}
	var size int64
	for _, p := range partsOf(v) {
		if at := a.owners[object{p.Snapshot, p.ID}]; at.view == i {
			size += at.size
		}
	}
	return size
}

// things lists the sizes of everything there is, and for each view the indexes of what it owns. What only one record owns is one
// thing.
func (a *accounts) things() (sizes []int64, of [][]int) {
	of, sizes = make([][]int, len(a.views)), make([]int64, 0, len(a.views))
	all := make([]int, 0, len(a.views)) // of all views, one after the other; most own one thing
	at := map[object]int{}
	for i := range a.views {
		first, alone := len(all), max(a.views[i].Size, 0)
		for _, p := range partsOf(&a.views[i]) {
			key := object{p.Snapshot, p.ID}
			thing := a.owners[key]
			if !thing.several {
				continue
			}
			n, ok := at[key]
			if !ok {
				n = len(sizes)
				at[key] = n
				sizes = append(sizes, thing.size)
			}
			all = append(all, n)
			alone -= p.Size
		}
		if alone > 0 {
			all = append(all, len(sizes))
			sizes = append(sizes, alone)
		}
		of[i] = all[first:len(all):len(all)]
	}
	return sizes, of
}

// allOwners lists who owns what has several owners, worked out once.
func (a *accounts) allOwners() map[object][]int {
	if a.owned != nil {
		return a.owned
	}
	a.owned = map[object][]int{}
	for i := range a.views {
		for _, p := range partsOf(&a.views[i]) {
			if key := (object{p.Snapshot, p.ID}); a.owners[key].several {
				a.owned[key] = append(a.owned[key], i)
			}
		}
	}
	return a.owned
}

// inherit has the sizes of records measured again that owned things together with records that are gone, and may own more than what
// is known: other compressions of a blob, which the links between blobs keep, and what they never fetched or extracted themselves.
func (m *manager) inherit(a *accounts, gone []*graph.View) error {
	left := map[object]bool{} // and whether others come with it
	for _, v := range gone {
		parts, blobs := partsOf(v), 0
		for _, p := range parts {
			if !p.Snapshot {
				blobs++
			}
		}
		for _, p := range parts {
			if key := (object{p.Snapshot, p.ID}); a.owners[key].several {
				left[key] = left[key] || !p.Snapshot && blobs > 1
			}
		}
	}
	var errs []error
	for key, more := range left {
		for _, i := range a.allOwners()[key] {
			v := &a.views[i]
			has := slices.IndexFunc(partsOf(v), func(p graph.Part) bool { return object{p.Snapshot, p.ID} == key })
			if (more || partsOf(v)[has].Size == 0) && m.g.Has(v.Meta.ID) {
				m.g.InvalidateSize(v.Record)
				errs = append(errs, m.store.LaterInts(v.Meta.ID, metadata.Int{Key: keySize, Value: sizeUnknown}))
			}
		}
	}
	return stderrors.Join(errs...)
}

// measured is a size and what it is the sum of.
type measured struct {
	size  int64
	parts []graph.Part
	// known says that it may be remembered, of the state of the record that gen names.
	known bool
	gen   uint32
}

// measuring is what a view turned out to occupy, by the view's index.
type measuring struct {
	measured
	at int
}

// measureLimit bounds how many sizes are measured at a time: walking trees is disk work, of which
// more at a time than this gains nothing.
func measureLimit() int { return 2 * runtime.GOMAXPROCS(0) }

// measure fills in unknown sizes and remembers them. Errors do not stop the others.
func (m *manager) measure(ctx context.Context, views []graph.View, unknown []*measuring) error {
	return each(unknown, func(u *measuring) (err error) {
		v := &views[u.at]
		u.measured, err = m.size(ctx, v.Record)
		v.Size, v.Parts = u.size, u.parts
		return errors.Wrapf(err, "measuring record %q", v.Meta.ID)
	})
}

// split finds out what sizes that are known are the sums of, and remembers it.
func (m *manager) split(ctx context.Context, whole []*graph.View) error {
	return each(whole, func(v *graph.View) error {
		st := m.g.Status(v.Record)
		parts, known, err := m.measureRecord(ctx, v.Record, st)
		if err != nil {
			if m.g.Status(v.Record).State == graph.Gone {
				err = nil
			}
			return errors.Wrapf(err, "measuring record %q", v.Meta.ID)
		}
		v.Size, v.Parts = sum(parts), parts
		if known {
			m.g.SetSize(v.Record, st.SizeGen, v.Size, parts)
		}
		return nil
	})
}

// each calls fn for all, several at a time, and joins the errors.
func each[T any](all []T, fn func(T) error) error {
	var (
		mu   sync.Mutex
		errs []error
		g    errgroup.Group
	)
	g.SetLimit(measureLimit())
	for _, one := range all {
		g.Go(func() error {
			if err := fn(one); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
	return stderrors.Join(errs...)
}

func sum(parts []graph.Part) (size int64) {
	for _, p := range parts {
		size += p.Size
	}
	return size
}

// size returns what a record occupies, measuring it once for all who ask (spec SIZE-1, SIZE-3).
func (m *manager) size(ctx context.Context, rec *graph.Record) (measured, error) {
	return m.sizes.Do(ctx, rec, func(ctx context.Context) (measured, error) {
		st := m.g.Status(rec)
		parts, known, err := m.measureRecord(ctx, rec, st)
		if err != nil {
			if m.g.Status(rec).State == graph.Gone {
				err = nil // it went meanwhile (spec SIZE-2)
			}
			return measured{}, err
		}
		got := measured{size: sum(parts), parts: parts, known: known, gen: st.SizeGen}
		if !known {
			return got, nil
		}
		remember := parts
		if len(parts) <= 1 || len(parts) == 2 && parts[0].Snapshot && !parts[1].Snapshot {
			remember = nil // the record tells by itself what they are
		}
		// What else a record owns would not be known after a start, and who else owns it, if the sum were; nor that another record's
		// extraction was also for one that is lazy.
		lazy := st.Blob != nil && st.Blob.Only
		if id, ok := m.g.SetSize(rec, st.SizeGen, got.size, remember); ok && remember == nil && !lazy {
			err = m.store.LaterInts(id, metadata.Int{Key: keySize, Value: got.size})
		}
		return got, err
	})
}

// measureRecord lists the snapshot, those that a merge's lies on, the blob, and its other local compressions. They are not known, and not
// to be remembered, as long as the record's snapshot is still to come (spec SIZE-5, quirk Q35).
func (m *manager) measureRecord(ctx context.Context, rec *graph.Record, st graph.Status) (parts []graph.Part, known bool, err error) {
	known = st.State != graph.Lazy
	key := st.ImmSnapshot
	if st.Mut != "" && !st.SnapshotCommitted {
		key = st.MutSnapshot
	}
	u, err := m.opt.Snapshotter.Usage(ctx, key) // one that is not extracted may have what another one extracted
	switch {
	case err == nil:
		below, err := m.basesOf(ctx, rec, key)
		if err != nil {
			return nil, false, errors.Wrapf(err, "what snapshot %q lies on", key)
		}
		parts = append(append(parts, graph.Part{Snapshot: true, ID: key, Size: u.Size}), below...)
		known = true
	case !errdefs.IsNotFound(err):
		return nil, false, errors.Wrapf(err, "snapshot %q", key)
	}
	if st.Blob != nil && isDigest(st.Blob.Digest) {
		blobs, err := m.partsOfBlob(ctx, digest.Digest(st.Blob.Digest))
		if err != nil {
			return nil, false, err
		}
		local := len(blobs) > 0 && blobs[0].ID == st.Blob.Digest
		parts = append(parts, blobs...)
		known = known || local && st.Blob.Only // a pull or an extraction voids it
	}
	return parts, known, nil
}
