package main

import (
	"context"
	stderrors "errors"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/usage"
)

// settings are what the command line asks for.
type settings struct {
	cacheDir, source         string
	platform                 ocispecs.Platform
	extract, list, plainHTTP bool
	// open is how the cache is opened.
	open local.Options
}

// run puts the image into the cache and does with it what is asked for.
func run(ctx context.Context, s settings, out *console.Printer, v console.View) (err error) {
	src, err := newSource(s.source, s.plainHTTP)
	if err != nil {
		return err
	}
	img, err := findImage(ctx, src, s.platform)
	if err != nil {
		return err
	}
	dir, err := cacheDir(s.cacheDir)
	if err != nil {
		return err
	}
	if snapshot.MayMount() != nil {
		// Nor may such a process give files to others.
		s.open.SquashOwners = true
	}
	c, err := local.Open(ctx, dir, s.open)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, c.Close()) }()
	out.Printf("cache  %s (%s: %s)\n", console.Printable(dir), c.Parts.SnapshotterName, c.Parts.SnapshotterReason)
	out.Printf("image  %s\n       %s, %s, %d layers, %s\n", console.Printable(img.name), img.manifest.Digest,
		console.Printable(platforms.Format(img.platform)), len(img.layers), console.Bytes(img.size()))

	m := newMeter(img, v)
	p := &pull{img: img, cache: c, out: out, meter: m}
	err = p.do(ctx, s, src)
	m.close() // shows the end of what was under way, before anything is said of it
	if err == nil {
		err = p.report(ctx)
	}
	return stderrors.Join(err, p.layers.Release(context.WithoutCancel(ctx)))
}

// pull is the work on one image.
type pull struct {
	img   *image
	cache *local.Cache
	out   *console.Printer
	meter *meter
	// layers are refs to the image's layers, bottom first.
	layers cache.RefList
}

func (p *pull) do(ctx context.Context, s settings, src source) error {
	if err := p.addLayers(ctx, src); err != nil {
		return err
	}
	if err := p.printLayers(ctx); err != nil {
		return err
	}
	if len(p.layers) == 0 {
		return nil
	}
	top := p.layers[len(p.layers)-1]
	if s.extract {
		if err := top.Extract(ctx, nil); err != nil {
			return errors.Wrap(err, "extract")
		}
	}
	switch {
	case s.list && s.extract:
		return listTree(ctx, p.out, top)
	case s.list:
		return p.listArchives(ctx)
	}
	return nil
}

// addLayers makes the records of the layers, one on top of the other, or finds those of an earlier run. The handlers say
// where their blobs come from; nothing is read of them here.
func (p *pull) addLayers(ctx context.Context, src source) error {
	handlers := cache.DescHandlers{}
	for _, desc := range p.img.layers {
		handlers[desc.Digest] = &cache.DescHandler{
			Provider:    func(session.Group) content.Provider { return provider{src, p.meter} },
			Progress:    p.meter.controller(desc.Digest),
			Annotations: desc.Annotations,
			Ref:         p.img.name,
		}
	}
	var parent cache.ImmutableRef
	for i, desc := range p.img.layers {
		// All handlers go along: the layers below may be fetched through this ref, too.
		ref, err := p.cache.GetByBlob(ctx, desc, parent, handlers, cache.WithImageRef(p.img.name))
		if err != nil {
			return errors.Wrapf(err, "layer %d, %s", i+1, desc.Digest)
		}
		p.layers = append(p.layers, ref)
		parent = ref
	}
	return nil
}

// printLayers tells of each layer whether its blob is in the cache already.
func (p *pull) printLayers(ctx context.Context) error {
	lazy := 0
	for i, desc := range p.img.layers {
		state := "here"
		_, err := p.cache.Parts.ContentStore.Info(ctx, desc.Digest)
		if errdefs.IsNotFound(err) {
			lazy, state = lazy+1, "lazy"
		} else if err != nil {
			return errors.Wrapf(err, "look for blob %s", desc.Digest)
		}
		p.out.Printf("layer  %d/%d  %s  %s  %s  %s\n", i+1, len(p.img.layers), console.Short(desc.Digest), state,
			console.Bytes(desc.Size), compressionOf(desc))
	}
	p.out.Printf("lazy   %d of %d layers have to be fetched when their files are wanted\n", lazy, len(p.img.layers))
	return p.out.Err
}

// compressionOf is the ending of a layer's media type.
func compressionOf(desc ocispecs.Descriptor) string {
	for _, name := range []string{"gzip", "zstd"} {
		if strings.HasSuffix(desc.MediaType, name) {
			return name
		}
	}
	return "tar"
}

// report sums up what the run has done and what the cache holds now.
func (p *pull) report(ctx context.Context) error {
	fetched, unpacked, bytes := summarize(p.meter.all())
	p.out.Printf("done   %d blobs fetched (%s), %d extracted\n", fetched, console.Bytes(bytes), unpacked)
	records, err := p.cache.DiskUsage(ctx, usage.DiskUsageInfo{})
	if err != nil {
		return err
	}
	var total int64
	for _, r := range records {
		total += r.Size
	}
	p.out.Printf("cache  %d records, %s\n", len(records), console.Bytes(total))
	return p.out.Err
}
