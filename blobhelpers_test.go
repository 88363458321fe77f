package cache_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// registry serves blobs from memory, and counts and disturbs what is read.
type registry struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	opens map[digest.Digest]int
	// before, if set, is asked before a blob is opened.
	before func(ctx context.Context, d digest.Digest) error
	// alter, if set, changes what is delivered.
	alter func(d digest.Digest, data []byte) []byte
}

func newRegistry() *registry {
	return &registry{blobs: map[digest.Digest][]byte{}, opens: map[digest.Digest]int{}}
}

func (r *registry) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	r.mu.Lock()
	r.opens[desc.Digest]++
	data, ok := r.blobs[desc.Digest]
	before, alter := r.before, r.alter
	r.mu.Unlock()
	if before != nil {
		if err := before(ctx, desc.Digest); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	if alter != nil {
		data = alter(desc.Digest, data)
	}
	return blobReader{bytes.NewReader(data)}, nil
}

type blobReader struct{ *bytes.Reader }

func (blobReader) Close() error { return nil }

// opened returns how often a blob was asked for.
func (r *registry) opened(d digest.Digest) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opens[d]
}

// disturb sets what happens when blobs are read; nil is nothing.
func (r *registry) disturb(before func(ctx context.Context, d digest.Digest) error, alter func(d digest.Digest, data []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before, r.alter = before, alter
}

// handlers returns descriptor handlers for blobs of the registry.
func (r *registry) handlers(descs ...ocispecs.Descriptor) cache.DescHandlers {
	dhs := cache.DescHandlers{}
	for _, desc := range descs {
		dhs[desc.Digest] = &cache.DescHandler{Provider: func(session.Group) content.Provider { return r }, Ref: "registry.test/image"}
	}
	return dhs
}

// layer packs entries and adds the blob. compression is "", "gzip" or "zstd".
func (r *registry) layer(t testing.TB, compression string, entries ...tree.Entry) ocispecs.Descriptor {
	t.Helper()
	plain, err := tree.Tar(entries...)
	require.NoError(t, err)
	return r.blob(t, compression, plain)
}

// blob compresses an archive and adds the blob.
func (r *registry) blob(t testing.TB, compression string, plain []byte) ocispecs.Descriptor {
	t.Helper()
	var buf bytes.Buffer
	mediaType := ocispecs.MediaTypeImageLayer
	var w io.WriteCloser
	switch compression {
	case "gzip":
		w, mediaType = gzip.NewWriter(&buf), ocispecs.MediaTypeImageLayerGzip
	case "zstd":
		zw, err := zstd.NewWriter(&buf)
		require.NoError(t, err)
		w, mediaType = zw, ocispecs.MediaTypeImageLayerZstd
	default:
		buf.Write(plain)
	}
	if w != nil {
		_, err := w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	data := buf.Bytes()
	desc := ocispecs.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data)),
		Annotations: map[string]string{"containerd.io/uncompressed": digest.FromBytes(plain).String()},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[desc.Digest] = data
	return desc
}

func diffIDOf(desc ocispecs.Descriptor) digest.Digest {
	return digest.Digest(desc.Annotations["containerd.io/uncompressed"])
}

// byBlob gets a layer whose blob the registry has.
func byBlob(t testing.TB, env *testutil.Env, r *registry, desc ocispecs.Descriptor, parent cache.ImmutableRef, opts ...cache.RefOption) cache.ImmutableRef {
	t.Helper()
	ref, err := env.Manager.GetByBlob(ctx, desc, parent, append([]cache.RefOption{r.allHandlers()}, opts...)...)
	require.NoError(t, err)
	return ref
}

// named makes the snapshotter go by another name, by which the cache knows what it can do.
func named(name string) testutil.Option {
	return testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Snapshotter = renamed{opt.Snapshotter, name} })
}

type renamed struct {
	snapshot.Snapshotter
	name string
}

func (r renamed) Name() string { return r.name }

// ingest puts a blob into the content store under a lease of the test's own, which done deletes.
func ingest(t testing.TB, env *testutil.Env, r *registry, desc ocispecs.Descriptor) (done func()) {
	t.Helper()
	l, err := env.Opt.LeaseManager.Create(ctx, leases.WithRandomID())
	require.NoError(t, err)
	leased := leases.WithLease(ctx, l.ID)
	r.mu.Lock()
	data := r.blobs[desc.Digest]
	r.mu.Unlock()
	require.NoError(t, content.WriteBlob(leased, env.Opt.ContentStore, "test-"+desc.Digest.String(), bytes.NewReader(data), desc))
	return func() { require.NoError(t, env.Opt.LeaseManager.Delete(ctx, l)) }
}

// ofLocalBlob makes the record of a layer whose blob is there. The record is all that keeps the blob from then on.
func ofLocalBlob(t testing.TB, env *testutil.Env, r *registry, desc ocispecs.Descriptor) cache.ImmutableRef {
	t.Helper()
	done := ingest(t, env, r, desc)
	ref, err := env.Manager.GetByBlob(ctx, desc, nil)
	require.NoError(t, err)
	done()
	return ref
}

// blobNames lists the content store.
func blobNames(t testing.TB, env *testutil.Env) []string {
	t.Helper()
	names := []string{}
	require.NoError(t, env.Opt.ContentStore.Walk(ctx, func(info content.Info) error {
		names = append(names, info.Digest.String())
		return nil
	}))
	return names
}

// blobLabels returns the labels of a blob that is there.
func blobLabels(t testing.TB, env *testutil.Env, d digest.Digest) map[string]string {
	t.Helper()
	info, err := env.Opt.ContentStore.Info(ctx, d)
	require.NoError(t, err)
	return info.Labels
}

// progressLog is a progress controller that remembers what it was told.
type progressLog struct {
	mu       sync.Mutex
	started  int
	ends     []error
	statuses []string
	open     int
}

func (p *progressLog) Start(ctx context.Context) (context.Context, func(error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started++
	return ctx, func(err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ends = append(p.ends, err)
	}
}

func (p *progressLog) Status(id, _ string) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.statuses = append(p.statuses, id)
	p.open++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.open--
	}
}

// take returns what was told since the last call, and requires that all of it has ended.
func (p *progressLog) take(t testing.TB) (statuses []string, ends []error) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.Zero(t, p.open, "every status ends")
	require.Len(t, p.ends, p.started, "every report ends once")
	statuses, ends = p.statuses, p.ends
	p.statuses, p.ends, p.started = nil, nil, 0
	return statuses, ends
}

func leaseNamed(id string) leases.Lease { return leases.Lease{ID: id} }

func contentResource(desc ocispecs.Descriptor) leases.Resource {
	return leases.Resource{ID: desc.Digest.String(), Type: "content"}
}

// allHandlers returns descriptor handlers for all blobs of the registry.
func (r *registry) allHandlers() cache.DescHandlers {
	var all []ocispecs.Descriptor
	r.mu.Lock()
	for d := range r.blobs {
		all = append(all, ocispecs.Descriptor{Digest: d})
	}
	r.mu.Unlock()
	return r.handlers(all...)
}

// joining is a context that tells when somebody first waits for its end.
type joining struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (j *joining) Done() <-chan struct{} {
	j.once.Do(func() { close(j.asked) })
	return j.Context.Done()
}

// makeLegacy gives a finalized record another snapshot, by hand, which is named as releases did that verified nothing.
func makeLegacy(t testing.TB, env *testutil.Env, id, name, text string) {
	t.Helper()
	sn, lm := env.Opt.Snapshotter, env.Opt.LeaseManager
	require.NoError(t, lm.AddResource(ctx, leaseNamed(id), leases.Resource{ID: name, Type: "snapshots/" + sn.Name()}))
	leased := leases.WithLease(ctx, id)
	require.NoError(t, sn.Prepare(leased, "by hand", ""))
	mountable, err := sn.Mounts(ctx, "by hand")
	require.NoError(t, err)
	mounter := snapshot.LocalMounter(mountable)
	dir, err := mounter.Mount()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o600))
	require.NoError(t, mounter.Unmount())
	require.NoError(t, sn.Commit(leased, name, "by hand"))
}

// pruneAll is the policy that spares nothing but what is in use.
var pruneAll = usage.PruneInfo{All: true}
