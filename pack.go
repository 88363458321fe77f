package cache

import (
	"context"
	"maps"
	"runtime"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/layertype"
	"github.com/layercache/cache/metadata"
)

// This file makes the blobs of layers that have none (spec 4.2).

// packers bounds how many blobs are written at a time: compressing uses every processor for each.
var packers = runtime.GOMAXPROCS(0) + 1

// packJob is the work on one blob.
type packJob struct {
	m   *manager
	rec *graph.Record
	st  graph.Status
	cfg compression.Config
	src source
	// windows says that the layer is in Windows' layout.
	windows bool
}

// pack makes the blob of a record that has none. All who want it share one execution, so that of several forms asked for at the same
// time the first is made (spec BLOB-2, BLOB-3). The record's lease keeps it before anybody hears of it. The
// caller keeps the record, and is in no slot.
func (m *manager) pack(ctx context.Context, rec *graph.Record, cfg compression.Config, src source) error {
	_, err := together(ctx, &m.packs, rec, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.pinned(ctx, rec, func() error {
			p := &packJob{m: m, rec: rec, st: m.g.Status(rec), cfg: cfg, src: src, windows: m.isWindows(rec)}
			return p.run(ctx)
		})
	})
	if below := (*LayerError)(nil); err == nil || errors.As(err, &below) {
		return err
	}
	return &LayerError{Record: m.g.ImmutableID(rec), Action: "packing", Err: err}
}

func (p *packJob) run(ctx context.Context) (err error) {
	m := p.m
	if hasBlob(p.st.Blob) {
		return nil // another execution ended just before
	}
	ev := Event{Kind: EventPack, ID: p.st.Imm, Reason: p.cfg.Type.String()}
	ctx, working := m.begin(ctx, ev)
	var desc ocispecs.Descriptor
	defer func() {
		ev.Digest, ev.Size, ev.Err = desc.Digest, desc.Size, err
		working.done(ev)
	}()
	work, err := m.leaseWork(ctx, p.st.Imm, nil)
	if err != nil {
		return err
	}
	defer func() {
		work.end(ctx)
		if err != nil {
			m.collectGarbage(ctx) // an unfinished blob has a name that is not ours alone, so it is not aborted
		}
	}()
	if desc, err = p.write(work.with(ctx)); err != nil {
		return err
	}
	return m.setBlob(ctx, p.rec, desc)
}

// write mounts the two trees and writes what is between them (spec BLOB-4).
func (p *packJob) write(ctx context.Context) (desc ocispecs.Descriptor, err error) {
	m := p.m
	var lower *graph.Record
	upper := p.rec
	switch parents := p.rec.Parents(); p.rec.Kind() {
	case graph.Layer:
		lower = parents[0]
	case graph.Diff:
		lower, upper = parents[0], parents[1]
	case graph.BaseLayer:
	case graph.Merge:
		return desc, errors.Wrap(errInvalid, "a merge has no blob of its own")
	}
	low, release, err := m.mountForPacking(ctx, lower, p.src)
	if err != nil {
		return desc, err
	}
	defer func() { err = release(err) }()
	up, release2, err := m.mountForPacking(ctx, upper, p.src)
	if err != nil {
		return desc, err
	}
	defer func() { err = release2(err) }()
	leave, err := enterPool(ctx, m, &m.packing, struct{}{}, p.src.rank, Event{ID: p.st.Imm, Reason: PoolPack})
	if err != nil {
		return desc, err
	}
	defer leave()
	layerType := ""
	if p.windows {
		layerType = layerTypeWindows
	}
	ctx, end := m.beginLayer(ctx, layerType, "pack", ocispecs.Descriptor{MediaType: p.cfg.Type.MediaType()})
	defer end()
	desc, finalize, err := p.compare(ctx, low, up)
	if err != nil {
		return desc, err
	}
	return p.complete(ctx, desc, finalize)
}

// mountForPacking mounts a record, which may be nil, under a ref of its own, without which nothing would ever drop the view that is made
// for it. Release ends both, and passes on an error that came before.
func (m *manager) mountForPacking(ctx context.Context, rec *graph.Record, src source) (_ []mount.Mount, release func(error) error, err error) {
	if rec == nil {
		return nil, func(err error) error { return err }, nil
	}
	id := m.g.ImmutableID(rec)
	giveBack, err := m.hold(rec, id)
	if err != nil {
		return nil, nil, errors.Wrapf(err, "record %q", id)
	}
	drop := func() { giveBack(context.WithoutCancel(ctx)) }
	src.nested = true
	mountable, err := m.mountImmutable(ctx, rec, true, src)
	if err != nil {
		drop()
		return nil, nil, err
	}
	mounts, unmount, err := mountable.Mount()
	if err != nil {
		drop()
		return nil, nil, err
	}
	return mounts, func(err error) error {
		defer drop()
		if unmount == nil {
			return err
		}
		if uerr := unmount(); err == nil {
			err = errors.Wrap(uerr, "unmounting")
		}
		return err
	}, nil
}

// complete finds out what is to be known of a blob that was written (spec BLOB-8, BLOB-9).
func (p *packJob) complete(ctx context.Context, desc ocispecs.Descriptor, finalize compression.Finalizer) (ocispecs.Descriptor, error) {
	annotations := maps.Clone(desc.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	desc.Annotations = annotations
	if finalize != nil {
		more, err := finalize(ctx, p.m.opt.ContentStore)
		if err != nil {
			return desc, errors.Wrapf(err, "finishing blob %s", desc.Digest)
		}
		maps.Copy(annotations, more)
	}
	info, err := p.m.opt.ContentStore.Info(ctx, desc.Digest)
	if err != nil {
		return desc, errors.Wrapf(err, "looking for blob %s", desc.Digest)
	}
	desc.Size = info.Size
	switch label := info.Labels[annotationUncompressed]; {
	case isDigest(label):
		annotations[annotationUncompressed] = label
	case layertype.CompressionOf(desc.MediaType) == layertype.None:
		annotations[annotationUncompressed] = desc.Digest.String()
	default:
		return desc, errors.Wrapf(errdefs.ErrFailedPrecondition, "blob %s: the differ did not say what it is uncompressed", desc.Digest)
	}
	return desc, nil
}

// setBlob makes a local blob that is annotated with its diff ID the record's (spec BLOB-10). A record that has one keeps it, and gets
// another compression of it. First the record's leases keep the blob, then its labels say so, and at last its row.
func (m *manager) setBlob(ctx context.Context, rec *graph.Record, desc ocispecs.Descriptor) error {
	leave, err := m.enter(ctx, rec)
	if err != nil {
		return err
	}
	defer leave()
	st := m.g.Status(rec)
	blob := &graph.Blob{
		Digest: desc.Digest.String(), DiffID: desc.Annotations[annotationUncompressed], LayerIdentity: desc.Annotations[annotationUncompressed],
		MediaType: desc.MediaType, URLs: desc.URLs, Size: desc.Size, Common: layertype.Common(desc.MediaType),
	}
	c := graph.Candidate{Record: rec, ID: st.Imm, SnapshotID: st.ImmSnapshot, Blob: blob}
	if hasBlob(st.Blob) {
		c.Blob = st.Blob
		return m.link(ctx, &c, desc)
	}
	err = m.transact(ctx, func(ctx context.Context) error {
		if err := m.leaseBlob(ctx, st.Imm, blob.Digest); err != nil {
			return err
		}
		return m.leaseVariant(ctx, st.Imm, blob.Digest)
	})
	if err != nil {
		return err
	}
	if err := m.linkBlob(ctx, rec, st.Imm, blob.Digest, desc); err != nil {
		return err
	}
	err = m.store.Write(func(w *metadata.Writer) error {
		row, err := w.Row(st.Imm)
		if err != nil {
			return err
		}
		if err := setAll(row, blobValues(blob)); err != nil {
			return err
		}
		return row.Set(keySize, sizeUnknown, "")
	})
	if err != nil {
		return errors.Wrapf(err, "storing the blob of record %q", st.Imm)
	}
	m.g.SetBlob(rec, blob)
	return nil
}

// layerTypeWindows is the layer type of layers in Windows' layout.
const layerTypeWindows = "windows"

// isWindows tells whether a record's layer is in Windows' layout: if it says so itself or anything does that its tree
// comes from (spec BLOB-11, quirk Q48).
func (m *manager) isWindows(rec *graph.Record) bool {
	seen := map[*graph.Record]bool{rec: true}
	for stack := []*graph.Record{rec}; len(stack) > 0; {
		r := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if m.g.Status(r).LayerType == layerTypeWindows {
			return true
		}
		parents := r.Parents()
		if r.Kind() == graph.Diff {
			parents = parents[1:]
		}
		for _, p := range parents {
			if p != nil && !seen[p] {
				seen[p] = true
				stack = append(stack, p)
			}
		}
	}
	return false
}
