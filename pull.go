package cache

import (
	"context"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/flight"
	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/ingest"
	"github.com/layercache/cache/progress"
	"github.com/layercache/cache/session"
)

// source is where a record's lazy blobs come from, and who is told.
type source struct {
	handlers DescHandlers
	session  session.Group
	progress progress.Controller
	// below says that the record is only needed for one that lies on it.
	below bool
	// nested says that the record is only needed for another one.
	nested bool
	// rank tells where the work on the record comes in. The layers of an image are pulled and unpacked from
	// the lowest on, since each is committed only on top of those below.
	rank flight.Rank
}

// ranked gives a source that has no rank the one of somebody who comes now.
func (m *manager) ranked(src source) source {
	if src.rank.Call == 0 {
		src.rank.Call = m.calls.Add(1)
	}
	return src
}

// under is the source for the parent of a record, whose turn is before the record's.
func (s source) under() source {
	s.below, s.nested = true, true
	s.rank.Step--
	return s
}

const (
	// transfersPerOrigin bounds the transfers from one origin at a time: enough to hide latency, and few enough
	// for a registry not to throttle us. Origins do not wait for each other, so that one that hangs
	// holds up itself only.
	transfersPerOrigin = 4
	// fetchAttempts bounds how often a transfer that broke is taken up again, and firstPause is how long the first
	// retry waits; each pause is about twice as long as the one before.
	fetchAttempts = 5
	firstPause    = 50 * time.Millisecond
)

// pull makes the blob of a record local (spec PULL-1 to PULL-3). All who want a blob share one transfer;
// each record that waited for it is linked to it (quirk Q52).
func (m *manager) pull(ctx context.Context, c *graph.Candidate, src source) error {
	d := digest.Digest(c.Blob.Digest)
	local, err := m.blobLocal(ctx, d)
	if err != nil || local {
		return err
	}
	dh := src.handlers[d]
	if dh == nil {
		return errors.WithMessage(NeedsRemoteProviderError{d}, "unexpected nil descriptor handler")
	}
	desc, src := handledDescriptor(c.Blob, dh), m.ranked(src)
	leased, err := m.transferred(ctx, c, desc, dh, src)
	if err != nil {
		return err
	}
	if leased != c.ID {
		err = m.transact(ctx, func(ctx context.Context) error { return m.leaseVariant(ctx, c.ID, c.Blob.Digest) })
	}
	if err == nil {
		err = m.linkBlob(ctx, c.Record, c.ID, c.Blob.Digest, desc)
	}
	if err != nil {
		return err
	}
	meta, ok := m.g.Meta(c.ID)
	if !ok || meta.Description != "" || len(meta.ImageRefs) == 0 {
		return nil
	}
	return (&refMetadata{m: m, id: c.ID}).describe("pulled from " + meta.ImageRefs[0])
}

// transfer is what became of a wanted blob.
type transfer struct {
	// leased is the ID of the record whose lease on variants lists the blob.
	leased string
	// fetched says that it was not there before, and size how long it is.
	fetched bool
	size    int64
	// told says that one of those who waited has claimed the transfer as theirs, so that it is counted once.
	told atomic.Bool
}

// transferred makes a blob local together with all who want it. It returns the ID of the record whose lease on variants lists it.
func (m *manager) transferred(ctx context.Context, c *graph.Candidate, desc ocispecs.Descriptor, dh *DescHandler, src source) (leased string, err error) {
	ev := Event{Kind: EventPull, ID: c.ID, Digest: desc.Digest, Size: desc.Size, Source: dh.Ref}
	ctx, pulling := m.begin(ctx, ev)
	t, err := together(ctx, &m.pulls, desc.Digest, func(ctx context.Context) (*transfer, error) {
		t := &transfer{leased: c.ID}
		return t, m.pinned(ctx, c.Record, func() error { return m.fetch(ctx, t, desc, dh, src) })
	})
	ev.Reason, ev.Err = ReasonShared, err
	switch {
	case err != nil:
		ev.Reason = ReasonFetched // whoever tried
	case !t.fetched:
		ev.Reason, ev.Size = ReasonLocal, t.size
	case t.told.CompareAndSwap(false, true):
		ev.Reason, ev.Size = ReasonFetched, t.size
	default:
		ev.Size = t.size
	}
	pulling.done(ev)
	if err != nil {
		return "", err
	}
	return t.leased, nil
}

func (m *manager) blobLocal(ctx context.Context, d digest.Digest) (bool, error) {
	local, _, err := m.localBlob(ctx, d)
	return local, err
}

// localBlob is blobLocal that tells the blob's size, too.
func (m *manager) localBlob(ctx context.Context, d digest.Digest) (local bool, size int64, err error) {
	info, err := m.opt.ContentStore.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return false, 0, nil
	}
	return err == nil, info.Size, errors.Wrapf(err, "looking for blob %s", d)
}

// fetch transfers a blob under a lease of its own, so that whoever waits for it may go without the others
// losing it (quirk Q37). The record's lease on variants lists the blob from the start.
func (m *manager) fetch(ctx context.Context, t *transfer, desc ocispecs.Descriptor, dh *DescHandler, src source) (err error) {
	id := t.leased
	local, size, err := m.localBlob(ctx, desc.Digest)
	if err != nil || local {
		t.size = size
		if local { // the transfer before this one has just ended
			err = m.transact(ctx, func(ctx context.Context) error { return m.leaseVariant(ctx, id, desc.Digest.String()) })
		}
		return err
	}
	if dh.Provider == nil {
		return errors.Wrap(errInvalid, "the descriptor handler has no provider")
	}
	if dh.Progress != nil {
		var stop func(error)
		ctx, stop = dh.Progress.Start(ctx)
		if stop != nil {
			defer func() { stop(err) }() // with what it really ended with (quirk Q38)
		}
	}
	leave, err := enterPool(ctx, m, &m.origins, dh.Ref, src.rank, Event{ID: id, Reason: PoolPull, Digest: desc.Digest, Source: dh.Ref})
	if err != nil {
		return err
	}
	defer leave()
	blob := desc.Digest.String()
	var resources []leases.Resource
	if !m.snapshotsLease() { // else the variants' lease does, and the writing of the blob adds it here
		resources = []leases.Resource{contentResource(blob)}
	}
	lease, err := m.leaseWork(ctx, id, func(ctx context.Context) error {
		return m.leaseVariant(ctx, id, blob)
	}, resources...)
	if err != nil {
		return err
	}
	defer lease.end(ctx)
	ctx = lease.with(ctx)
	provider := dh.Provider(src.session)
	if provider == nil {
		return errors.Wrap(errInvalid, "the descriptor handler has no provider for the session")
	}
	provider = resuming{provider}
	if hook := m.opt.Hooks.FetchBlob; hook != nil {
		err = hook(ctx, m.opt.ContentStore, provider, desc, dh.Ref)
	} else {
		// The labels go with the blob, for a transaction of their own would wait for the disk again.
		err = fetchBlob(ctx, m.opt.ContentStore, provider, desc, content.WithLabels(variantLabels(nil, blob, desc)))
	}
	if err != nil {
		return err
	}
	t.fetched, t.size, err = m.localBlob(ctx, desc.Digest)
	if err == nil && !t.fetched {
		err = errors.Wrap(errdefs.ErrNotFound, "the blob is not there after its transfer")
	}
	return err
}

// fetchBlob copies a blob into a content store, going on where a transfer broke off. The options are for its commit.
func fetchBlob(ctx context.Context, cs content.Store, provider content.Provider, desc ocispecs.Descriptor, opts ...content.Opt) error {
	pause := firstPause
	for attempt := 1; ; attempt++ {
		resumed, err := fetchOnce(ctx, cs, provider, desc, opts)
		if err == nil {
			return nil
		}
		if mismatch := errdefs.IsFailedPrecondition(err); mismatch {
			// The data are wrong, and a next attempt would go on after them.
			if aerr := cs.Abort(context.WithoutCancel(ctx), ingestOf(desc)); aerr != nil && !errdefs.IsNotFound(aerr) {
				log.G(ctx).WithError(aerr).Warn("layer cache: a blob's wrong data are left")
			}
			if !resumed { // else the beginning, from another time, may be to blame
				return errors.Wrapf(ErrVerification, "the data received are not the blob's: %v", err)
			}
		}
		if attempt == fetchAttempts || !worthRetrying(ctx, err) {
			return err
		}
		log.G(ctx).WithError(err).WithField("digest", desc.Digest).Info("layer cache: taking a transfer up again")
		if !wait(ctx, pause/2+rand.N(pause)) {
			return err
		}
		pause *= 2
	}
}

// wait lets time pass, and tells whether the context lasted as long.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ingestOf names the unfinished transfer of a blob. containerd's clients use the same name, so that two of
// them do not transfer the same blob at the same time.
func ingestOf(desc ocispecs.Descriptor) string { return "layer-" + desc.Digest.String() }

// worthRetrying tells whether the other side may answer differently the next time.
func worthRetrying(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	return !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) && !errdefs.IsUnauthorized(err) &&
		!errdefs.IsPermissionDenied(err) && !errdefs.IsNotImplemented(err)
}

// fetchOnce tries to complete a transfer; resumed tells that it did not begin at the blob's beginning.
func fetchOnce(ctx context.Context, cs content.Store, provider content.Provider, desc ocispecs.Descriptor, opts []content.Opt) (resumed bool, err error) {
	w, err := ingest.OpenWriter(ctx, cs, content.WithRef(ingestOf(desc)), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return false, err
	}
	resumed = st.Offset > 0
	ra, err := provider.ReaderAt(ctx, desc)
	if err != nil {
		return resumed, err
	}
	defer ra.Close()
	size := desc.Size
	if size == 0 {
		size = ra.Size()
	}
	if size < st.Offset {
		return resumed, errors.Wrapf(errdefs.ErrFailedPrecondition, "%d bytes of a blob of %d", st.Offset, size)
	}
	if err := copyRest(ctx, w, ra, st.Offset, size); err != nil {
		return resumed, err
	}
	err = w.Commit(ctx, size, desc.Digest, opts...)
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return resumed, err
}

// copyRest copies the bytes from offset to size. The context is asked between the reads, since a reader need
// not know it.
func copyRest(ctx context.Context, w io.Writer, ra io.ReaderAt, offset, size int64) error {
	buf := make([]byte, 256<<10)
	for offset < size {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := ra.ReadAt(buf[:min(int64(len(buf)), size-offset)], offset)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			offset += int64(n)
		}
		if err != nil && offset < size {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return errors.Wrapf(err, "after %d of %d bytes", offset, size)
		}
		if n == 0 && err == nil {
			return errors.Wrapf(io.ErrNoProgress, "after %d of %d bytes", offset, size)
		}
	}
	return nil
}
