package main

import (
	"archive/tar"
	"bytes"
	"context"
	stderrors "errors"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/leaseutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// fill makes a record of every kind, with the metadata that BuildKit's sources keep on them.
func (e *engine) fill(ctx context.Context) (err error) {
	ctx, done, err := leaseutil.WithLease(ctx, e.leases, leaseutil.MakeTemporary)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, done(ctx)) }()
	base, err := e.layer(ctx, nil, "base", true)
	if err != nil {
		return err
	}
	child, err := e.layer(ctx, base, "child", true)
	if err != nil {
		return err
	}
	pair, err := e.layer(ctx, child, "pair", false)
	if err != nil {
		return err
	}
	if err := e.mount(ctx, base); err != nil {
		return err
	}
	blob, err := e.blob(ctx, nil, "low")
	if err != nil {
		return err
	}
	top, err := e.blob(ctx, blob, "high")
	if err != nil {
		return err
	}
	lazy, err := e.blob(ctx, top, "lazy") // never extracted
	if err != nil {
		return err
	}
	merge, err := e.manager.Merge(ctx, []cache.ImmutableRef{child, top}, nil, cache.WithDescription("merge"))
	if err != nil {
		return err
	}
	other, err := e.layer(ctx, base, "other", true)
	if err != nil {
		return err
	}
	diff, err := e.manager.Diff(ctx, child, other, nil, cache.WithDescription("diff"), cache.CachePolicyRetain)
	if err != nil {
		return err
	}
	// Exporting computes blobs and chain metadata of local layers.
	cfg := config.RefConfig{Compression: compression.New(compression.Uncompressed)}
	if _, err := child.GetRemotes(ctx, true, cfg, false, nil); err != nil {
		return err
	}
	if _, err := top.FileList(ctx, nil); err != nil {
		return err
	}
	if err := e.annotate(base, blob); err != nil {
		return err
	}
	for _, ref := range []cache.ImmutableRef{base, child, pair, blob, top, lazy, merge, other, diff} {
		if err := ref.Release(ctx); err != nil {
			return err
		}
	}
	return nil
}

// layer commits a directory with one file on top of parent.
func (e *engine) layer(ctx context.Context, parent cache.ImmutableRef, name string, finalize bool) (cache.ImmutableRef, error) {
	mut, err := e.manager.New(ctx, parent, nil, cache.WithDescription(name), cache.CachePolicyRetain, cache.WithImageRef("example.com/"+name+":latest"))
	if err != nil {
		return nil, err
	}
	mountable, err := mut.Mount(ctx, false, nil)
	if err != nil {
		return nil, err
	}
	mounter := snapshot.LocalMounter(mountable)
	dir, err := mounter.Mount()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
		return nil, errors.WithStack(err)
	}
	if err := mounter.Unmount(); err != nil {
		return nil, err
	}
	ref, err := mut.Commit(ctx)
	if err != nil {
		return nil, err
	}
	if err := ref.SetCachePolicyRetain(); err != nil {
		return nil, err
	}
	if finalize {
		return ref, ref.Finalize(ctx)
	}
	return ref, nil
}

// mount makes the record of a cache mount, which stays writable.
func (e *engine) mount(ctx context.Context, parent cache.ImmutableRef) error {
	mut, err := e.manager.New(ctx, parent, nil, cache.WithRecordType(client.UsageRecordTypeCacheMount), cache.CachePolicyRetain)
	if err != nil {
		return err
	}
	if err := mut.SetString("cache-dir", "cache-dir:id", "cache-dir:id"); err != nil {
		return err
	}
	return mut.Release(ctx)
}

// blob makes a record of a layer blob on top of parent.
func (e *engine) blob(ctx context.Context, parent cache.ImmutableRef, name string) (cache.ImmutableRef, error) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Name: name, Size: int64(len(name)), Mode: 0o644}); err != nil {
		return nil, errors.WithStack(err)
	}
	if _, err := tw.Write([]byte(name)); err != nil {
		return nil, errors.WithStack(err)
	}
	if err := tw.Close(); err != nil {
		return nil, errors.WithStack(err)
	}
	desc := ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer,
		Digest:    digest.FromBytes(buf.Bytes()),
		Size:      int64(buf.Len()),
		URLs:      []string{"https://z.example/" + name, "https://a.example/" + name},
	}
	desc.Annotations = map[string]string{labels.LabelUncompressed: desc.Digest.String()}
	if err := content.WriteBlob(ctx, e.blobs, "golden-"+name, &buf, desc); err != nil {
		return nil, errors.WithStack(err)
	}
	return e.manager.GetByBlob(ctx, desc, parent, cache.WithDescription("blob "+name), cache.WithImageRef("example.com/blob@"+desc.Digest.String()))
}

// annotate stores what the git, http and local sources and the content hash keep.
func (e *engine) annotate(ref, other cache.ImmutableRef) error {
	for _, err := range []error{
		ref.SetString("git-remote", "https://example.com/r.git", "git-remote::https://example.com/r.git"),
		ref.SetString("git-snapshot", "k", "git-snapshot::https://example.com/r.git#main"),
		ref.SetString("local.sharedKey", "dir:a", "local.sharedKey:dir:a"),
		ref.SetExternal("buildkit.contenthash.v0", []byte{0, 1, 0xff}),
		other.SetString("http.checksum", "v", digest.FromString("url").String()),
		other.SetString("etag", `W/"1"`, ""),
		other.SetString("http.modtime", "Mon, 02 Jan 2006 15:04:05 GMT", "x::mod"),
		other.ClearValueAndIndex("http.modtime", "x::"),
		other.SetLayerType("windows"),
		other.SetLayerType(""),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}
