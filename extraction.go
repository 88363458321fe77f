package cache

import (
	"context"
	"runtime"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/progress"
	"github.com/layercache/cache/snapshot"
)

// unpackers bounds how many layers are unpacked at the same time: one per CPU, and two more, since unpacking
// waits for the disk, too.
var unpackers = runtime.GOMAXPROCS(0) + 2

// extraction is the work on one layer that is to be extracted.
type extraction struct {
	m   *manager
	rec *graph.Record
	st  graph.Status
	src source
	// blob is what to unpack.
	blob ocispecs.Descriptor
	// parent is the record below, nil for a base layer.
	parent *graph.Record

	// key is the active snapshot, "" while there is none; lease protects it.
	key   string
	lease *workLease
	// detached says that the snapshot has no parent yet.
	detached bool
	// garbage says that a snapshot was given up.
	garbage bool
	// squashed says that the tree has other owners than the layer says.
	squashed bool
	// pinned are other records whose blobs were tried: without them their blobs may go.
	pinned []*graph.Record
}

// extractLayer unpacks a layer's blob onto its parent's snapshot. Parent and blob are made available at the same time
// (spec EXT-6), and where snapshotter and applier allow it the blob is unpacked before the parent is there.
func (m *manager) extractLayer(ctx context.Context, rec *graph.Record, st graph.Status, src source) (err error) {
	src = m.ranked(src)
	x := &extraction{m: m, rec: rec, st: st, src: src}
	if rec.Kind() == graph.Layer {
		x.parent = rec.Parents()[0]
	}
	ctx, working := m.begin(ctx, Event{Kind: EventExtract, ID: st.Imm})
	defer func() {
		x.collect(ctx)
		for _, other := range x.pinned {
			m.unlink(context.WithoutCancel(ctx), other)
		}
		working.done(Event{Kind: EventExtract, ID: st.Imm, Digest: x.blob.Digest, Size: x.blob.Size, Err: err})
	}()
	g, gctx := errgroup.WithContext(ctx)
	if x.parent != nil {
		g.Go(func() error { return m.materialize(gctx, x.parent, src.under()) })
	}
	g.Go(func() error { return x.fetchAndUnpack(gctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	if x.key == "" {
		if err := x.unpackOnParent(ctx); err != nil {
			return x.failed("extracting", err)
		}
	}
	return x.commit(ctx)
}

// failed names record and blob in an error, unless it names those of a layer below.
func (x *extraction) failed(action string, err error) error {
	if below := (*LayerError)(nil); errors.As(err, &below) {
		return err
	}
	d := x.blob.Digest
	if d == "" && x.st.Blob != nil {
		d = digest.Digest(x.st.Blob.Digest)
	}
	return &LayerError{Record: x.st.Imm, Digest: d, Action: action, Err: err}
}

// fetchAndUnpack makes the blob local and, if the parent is not there yet, unpacks it without.
func (x *extraction) fetchAndUnpack(ctx context.Context) error {
	if err := x.fetch(ctx); err != nil {
		return x.failed("pulling", err)
	}
	if x.m.opt.Applier == nil {
		return x.failed("extracting", errors.Wrap(ErrNotExtracted, "unlazy requires an applier"))
	}
	applier, ok := x.m.opt.Applier.(snapshot.DetachedApplier)
	if !ok || !x.m.caps.Rebase || x.parent == nil || x.st.LayerType != "" || x.m.g.Status(x.parent).State != graph.Lazy {
		return nil
	}
	err := x.unpackDetached(ctx, applier)
	if errors.Is(err, snapshot.ErrNeedsParent) {
		x.drop(ctx)
		return nil
	}
	if err != nil {
		return x.failed("extracting", err)
	}
	return nil
}

// fetch chooses the blob to unpack and makes it local: the record's own or, if that cannot be had, the same
// layer in another compression, which is verified like it (fault 12).
func (x *extraction) fetch(ctx context.Context) error {
	m := x.m
	if x.st.Blob == nil || !isDigest(x.st.Blob.Digest) {
		return errors.Wrap(ErrNotExtracted, "no blob available")
	}
	own := graph.Candidate{Record: x.rec, ID: x.st.Imm, SnapshotID: x.st.ImmSnapshot, Blob: x.st.Blob}
	err := m.pull(ctx, &own, x.src)
	chosen := own
	for _, other := range m.g.Equivalents(x.rec) {
		if err == nil || ctx.Err() != nil {
			break
		}
		if !isDigest(other.Blob.Digest) || other.Blob.DiffID != own.Blob.DiffID || !m.g.Pin(other.Record) {
			continue
		}
		x.pinned = append(x.pinned, other.Record)
		if m.pull(ctx, &other, x.src) == nil {
			chosen, err = other, nil
		}
	}
	if err != nil {
		return err
	}
	info, err := m.opt.ContentStore.Info(ctx, digest.Digest(chosen.Blob.Digest))
	if err != nil {
		return err
	}
	x.blob = descriptorOf(chosen.Blob)
	x.blob.Size = info.Size // what the descriptor said is the descriptor's word
	if x.blob.MediaType == "" {
		x.blob.MediaType, err = detectMediaType(ctx, m.opt.ContentStore, x.blob)
	}
	return err
}

// prepare makes the active snapshot to unpack into, under a lease of its own (spec EXT-7, EXT-8).
func (x *extraction) prepare(ctx context.Context, parent string) error {
	m := x.m
	key := "extract-" + newID() + " " + x.st.Blob.ChainID
	opts := m.caps.ExtractOpts(x.st.ImmSnapshot)
	prepare := func(ctx context.Context) error {
		err := m.opt.Snapshotter.Prepare(ctx, key, parent, opts...)
		return errors.Wrapf(err, "preparing snapshot %q on %q", key, parent)
	}
	// The record's own lease keeps what is made here; should somebody have taken it away, it is made anew.
	own := m.recordLease(x.st.Imm, x.st.ImmSnapshot, x.st.Blob)
	var resources []leases.Resource
	if blob := x.blob.Digest.String(); !m.snapshotsLease() {
		resources = []leases.Resource{m.snapshotResource(key), m.snapshotResource(x.st.ImmSnapshot), contentResource(blob)}
	} else if x.st.Blob.Digest != blob { // else the record's own lease lists it
		resources = []leases.Resource{contentResource(blob)}
	}
	work, err := m.leaseWork(ctx, x.st.Imm, func(ctx context.Context) error {
		if err := m.ensureLease(ctx, own); err != nil || !m.snapshotsJoin() {
			return err
		}
		return prepare(ctx)
	}, resources...)
	if err != nil {
		x.garbage = m.snapshotsJoin() // the snapshot may be there: perhaps it was only the answer that got lost
		return err
	}
	x.key, x.lease = key, work
	if !m.snapshotsJoin() {
		return prepare(work.with(ctx))
	}
	return nil
}

// drop makes an end of an active snapshot that was not committed, if there is one; collect has to follow.
func (x *extraction) drop(ctx context.Context) {
	if x.lease == nil {
		return
	}
	x.lease.end(ctx)
	x.key, x.lease, x.detached, x.garbage = "", nil, false, true
}

// collect has the backend remove what drop left (spec EXT-9).
func (x *extraction) collect(ctx context.Context) {
	x.drop(ctx)
	if x.garbage {
		x.m.collectGarbage(ctx)
	}
}

// unpackDetached unpacks the blob into a snapshot without a parent, which commit puts on the parent.
func (x *extraction) unpackDetached(ctx context.Context, applier snapshot.DetachedApplier) error {
	if err := x.prepare(ctx, ""); err != nil {
		return err
	}
	x.detached = true
	return x.unpack(ctx, func(ctx context.Context, mounts []mount.Mount) (ocispecs.Descriptor, error) {
		if len(mounts) != 1 || mounts[0].Type != "bind" {
			return ocispecs.Descriptor{}, snapshot.ErrNeedsParent // not what the capability promised
		}
		return applier.ApplyDetached(ctx, x.blob, mounts[0].Source, diff.WithSyncFs(true))
	})
}

// unpackOnParent unpacks the blob into a snapshot on the parent's. A parent whose snapshot turns out to
// have vanished is extracted again, once.
func (x *extraction) unpackOnParent(ctx context.Context) error {
	below := ""
	if x.parent != nil {
		below = x.m.g.Status(x.parent).ImmSnapshot
	}
	err := x.prepare(ctx, below)
	if err != nil && x.parent != nil && errdefs.IsNotFound(err) {
		x.drop(ctx)
		if lerr := x.m.noticeLoss(ctx, x.parent); lerr != nil {
			return lerr
		}
		if lerr := x.m.materialize(ctx, x.parent, x.src); lerr != nil {
			return lerr
		}
		err = x.prepare(ctx, below)
	}
	if err != nil {
		return err
	}
	return x.unpack(ctx, func(ctx context.Context, mounts []mount.Mount) (ocispecs.Descriptor, error) {
		return x.m.opt.Applier.Apply(ctx, x.blob, mounts, diff.WithSyncFs(true))
	})
}

// unpack runs apply on the mounts of the active snapshot and verifies the result. The bytes are on disk
// before the snapshot is committed, and so before any row speaks of it (design section 5).
func (x *extraction) unpack(ctx context.Context, apply func(context.Context, []mount.Mount) (ocispecs.Descriptor, error)) (err error) {
	m := x.m
	leave, err := enterPool(ctx, m, &m.unpacking, struct{}{}, x.src.rank, Event{ID: x.st.Imm, Reason: PoolUnpack, Digest: x.blob.Digest})
	if err != nil {
		return err
	}
	defer leave()
	ctx = x.lease.with(ctx)
	ctx, end := m.beginLayer(ctx, x.st.LayerType, "extract", x.blob)
	defer end()
	ctx, done := x.showProgress(ctx)
	defer func() {
		if errors.Is(err, snapshot.ErrNeedsParent) {
			done(nil) // it goes on in another way, and nothing has failed
			return
		}
		done(err)
	}()
	mountable, err := m.opt.Snapshotter.Mounts(ctx, x.key)
	if err != nil {
		return err
	}
	mounts, release, err := mountable.Mount()
	if err != nil {
		return err
	}
	got, err := apply(ctx, mounts)
	if release != nil {
		if rerr := release(); err == nil {
			err = errors.Wrap(rerr, "unmounting")
		}
	}
	if err != nil {
		return err
	}
	if got.Digest.String() != x.st.Blob.DiffID {
		return errors.Wrapf(ErrVerification, "uncompressed it is %s, not %s", got.Digest, x.st.Blob.DiffID)
	}
	x.squashed = got.Annotations[snapshot.AnnotationSquashed] == "true"
	return nil
}

// beginLayer prepares a context, by the embedder's hooks, for work on a layer's blob. End ends the span.
func (m *manager) beginLayer(ctx context.Context, layerType, span string, blob ocispecs.Descriptor) (_ context.Context, end func()) {
	if hook := m.opt.Hooks.LayerContext; hook != nil {
		ctx = hook(ctx, layerType)
	}
	if hook := m.opt.Hooks.StartSpan; hook != nil {
		return hook(ctx, span, blob)
	}
	return ctx, func() {}
}

// showProgress tells the ref's progress controller, or else the handler's, that the layer is being extracted.
func (x *extraction) showProgress(ctx context.Context) (context.Context, func(error)) {
	pg := x.src.progress
	if dh := x.src.handlers[x.blob.Digest]; pg == nil && dh != nil {
		pg = dh.Progress
	}
	return showProgress(ctx, pg, "extracting "+x.blob.Digest.String(), "extracting")
}

// showProgress tells a controller, which may be nil, that something is being done until the function it returns is called.
func showProgress(ctx context.Context, pg progress.Controller, id, action string) (context.Context, func(error)) {
	if pg == nil {
		return ctx, func(error) {}
	}
	ctx, stop := pg.Start(ctx)
	ended := pg.Status(id, action)
	return ctx, func(err error) {
		if ended != nil {
			ended()
		}
		if stop != nil {
			stop(err)
		}
	}
}

// commit makes the active snapshot the record's, and then publishes that the record has one.
func (x *extraction) commit(ctx context.Context) error {
	m := x.m
	leave, err := m.enter(ctx, x.rec)
	if err != nil {
		return err
	}
	defer leave()
	var opts []snapshots.Opt
	if x.detached {
		opts = append(opts, snapshots.WithParent(m.g.Status(x.parent).ImmSnapshot))
	}
	if x.squashed {
		opts = append(opts, snapshots.WithLabels(map[string]string{snapshot.AnnotationSquashed: "true"}))
	}
	commit := func(ctx context.Context) error {
		// The record's lease stands for whatever lease the callers' contexts have: theirs may end any time.
		return m.opt.Snapshotter.Commit(leases.WithLease(ctx, x.st.Imm), x.st.ImmSnapshot, x.key, opts...)
	}
	err = m.transact(ctx, func(ctx context.Context) error {
		if !m.snapshotsJoin() {
			return nil
		}
		if err := m.deleteLeases(ctx, x.lease.id); err != nil {
			return err
		}
		return commit(ctx)
	})
	if err == nil && !m.snapshotsJoin() {
		err = commit(ctx)
	}
	switch {
	case err == nil && m.snapshotsJoin():
		x.lease.ended()
		x.lease = nil
	case err == nil:
		x.lease.end(ctx)
		x.lease = nil
	case errdefs.IsAlreadyExists(err):
		// Somebody else made the same snapshot. Ours is discarded.
	default:
		if is, _ := m.committed(ctx, x.st.ImmSnapshot); !is {
			return x.failed("extracting", err)
		}
	}
	return m.publishInSlot(x.rec, x.squashed)
}
