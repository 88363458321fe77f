package cache

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/internal/graph"
)

// Unlazier fetches everything that it could be asked for. The providers that GetRemotes returns are such.
type Unlazier interface {
	// Unlazy makes all blobs local, several at a time. What is local already is left alone.
	Unlazy(ctx context.Context) error
}

// blobProvider delivers the blobs of an export. What is not local is pulled first, so it can be read as long as the record
// is there, while what is local can be read as long as it is.
type blobProvider struct {
	m   *manager
	src source
	// own are the blobs of records, and local those that are known to be in the content store. Complete before anybody else sees it.
	own   map[digest.Digest]graph.Candidate
	local map[digest.Digest]ocispecs.Descriptor
}

var (
	_ content.InfoReaderProvider = (*blobProvider)(nil)
	_ Unlazier                   = (*blobProvider)(nil)
)

func newBlobProvider(m *manager, src source) *blobProvider {
	return &blobProvider{m: m, src: src, own: map[digest.Digest]graph.Candidate{}, local: map[digest.Digest]ocispecs.Descriptor{}}
}

func (p *blobProvider) addOwn(c graph.Candidate) { p.own[digest.Digest(c.Blob.Digest)] = c }

// addLocal adds a blob that is no record's own, and tells whether it is one.
func (p *blobProvider) addLocal(desc ocispecs.Descriptor) bool {
	if _, own := p.own[desc.Digest]; own {
		return false
	}
	p.local[desc.Digest] = desc
	return true
}

// ReaderAt opens a blob, which is pulled on behalf of the session that the export was for if it is not local.
func (p *blobProvider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	c, own := p.own[desc.Digest]
	if _, local := p.local[desc.Digest]; !own && !local {
		return nil, errors.Wrapf(errdefs.ErrNotFound, "blob %s is not among the exported ones", desc.Digest)
	}
	ra, err := p.m.opt.ContentStore.ReaderAt(ctx, desc)
	if !own || !errdefs.IsNotFound(err) {
		return ra, errors.Wrapf(err, "opening blob %s", desc.Digest)
	}
	if err := p.fetch(ctx, c); err != nil {
		return nil, err
	}
	ra, err = p.m.opt.ContentStore.ReaderAt(ctx, desc)
	return ra, errors.Wrapf(err, "opening blob %s", desc.Digest)
}

// Info describes a blob; of one that is not local it tells digest and size, without pulling it.
func (p *blobProvider) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	c, own := p.own[d]
	if _, local := p.local[d]; !own && !local {
		return content.Info{}, errors.Wrapf(errdefs.ErrNotFound, "blob %s is not among the exported ones", d)
	}
	info, err := p.m.opt.ContentStore.Info(ctx, d)
	if own && errdefs.IsNotFound(err) {
		return content.Info{Digest: d, Size: max(c.Blob.Size, 0)}, nil
	}
	return info, errors.Wrapf(err, "looking for blob %s", d)
}

// Unlazy pulls every blob that is not local.
func (p *blobProvider) Unlazy(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range p.own {
		g.Go(func() error { return p.fetch(ctx, c) })
	}
	return g.Wait()
}

// fetch makes a record's blob local, and keeps it for the lease in the context.
func (p *blobProvider) fetch(ctx context.Context, c graph.Candidate) error {
	if err := p.m.life.begin(); err != nil {
		return errors.Wrapf(err, "pulling blob %s", c.Blob.Digest)
	}
	defer p.m.life.end()
	err := p.m.pinned(ctx, c.Record, func() error {
		if err := p.m.pull(ctx, &c, p.src); err != nil {
			return err
		}
		return p.m.adopt(ctx, digest.Digest(c.Blob.Digest))
	})
	if err != nil {
		return &LayerError{Record: c.ID, Digest: digest.Digest(c.Blob.Digest), Action: "pulling", Err: err}
	}
	return nil
}
