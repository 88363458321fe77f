package main

import (
	"context"
	stderrors "errors"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/snapshot"
)

// settings are what the command line asks for.
type settings struct {
	cacheDir, record string
	layout, tag      string
	push             string
	plainHTTP        bool
	compression      compression.Config
	platform         ocispecs.Platform
}

// run lists the records of the cache, or exports one.
func run(ctx context.Context, s settings, out *console.Printer, v console.View) (err error) {
	// A mistyped directory must not become an empty cache.
	if info, err := os.Stat(s.cacheDir); err != nil {
		return errors.WithStack(err)
	} else if !info.IsDir() {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "%s is not a directory", s.cacheDir)
	}
	c, err := local.Open(ctx, s.cacheDir, local.Options{SquashOwners: snapshot.MayMount() != nil})
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, c.Close()) }()
	if s.record == "" {
		return listRecords(ctx, c, out)
	}
	to, err := newTarget(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, to.close()) }()
	ref, err := c.Get(ctx, s.record, nil)
	if err != nil {
		return errors.Wrapf(err, "record %q", s.record)
	}
	defer func() { err = stderrors.Join(err, ref.Release(context.WithoutCancel(ctx))) }()
	return exportRef(ctx, s, ref, to, out, v)
}

// target is where an image goes. Its methods may be called from several goroutines.
type target interface {
	// name is what the target is called.
	name() string
	// blob takes one blob, which is read from a provider. What is there already is not read. Its content is verified.
	blob(ctx context.Context, desc ocispecs.Descriptor, from content.Provider) error
	// publish makes the manifest, whose blobs are all there, the image of this name.
	publish(ctx context.Context, manifest ocispecs.Descriptor, text []byte) error
	// close removes what was not published.
	close() error
}

func newTarget(ctx context.Context, s settings) (target, error) {
	if s.push != "" {
		return newRegistry(ctx, s.push, s.plainHTTP)
	}
	return newLayout(s.layout, s.tag)
}

// exportRef makes the blobs of a ref's layers and hands them and the documents of an image to a target.
func exportRef(ctx context.Context, s settings, ref cache.ImmutableRef, to target, out *console.Printer, v console.View) error {
	m := newMeter(v)
	defer m.close()
	packed := m.packing(s.record)
	remotes, err := ref.GetRemotes(ctx, true, remote.RefConfig{Compression: s.compression}, false, nil)
	packed(err)
	if err != nil {
		return errors.Wrap(err, "make the layers' blobs")
	}
	layers := remotes[0].Descriptors
	created, err := creationTimes(ctx, ref)
	if err != nil {
		return err
	}
	img, err := newImage(layers, created, s.platform)
	if err != nil {
		return err
	}
	if err := sendLayers(ctx, to, layers, meteredProvider{remotes[0].Provider, m}, m); err != nil {
		return err
	}
	if err := to.blob(ctx, img.config, memory(img.configText)); err != nil {
		return errors.Wrap(err, "write the config")
	}
	if err := to.publish(ctx, img.manifest, img.manifestText); err != nil {
		return errors.Wrap(err, "write the manifest")
	}
	m.close() // shows the end of what was under way, before anything is said of it
	return report(out, to, img, layers)
}

// creationTimes are those of a ref's layers, bottom first. Descriptors of converted blobs do not have them.
func creationTimes(ctx context.Context, ref cache.ImmutableRef) ([]time.Time, error) {
	chain := ref.LayerChain()
	times := make([]time.Time, len(chain))
	for i, layer := range chain {
		times[i] = layer.GetCreatedAt().UTC()
	}
	return times, chain.Release(context.WithoutCancel(ctx))
}

// parallel is how many blobs are sent at a time. Registries are slow to answer rather than to take bytes.
const parallel = 4

// sendLayers hands each blob to the target once, however many layers it is.
func sendLayers(ctx context.Context, to target, layers []ocispecs.Descriptor, from content.Provider, m *meter) error {
	m.expect(layers)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	seen := map[digest.Digest]bool{}
	for _, desc := range layers {
		if seen[desc.Digest] {
			continue
		}
		seen[desc.Digest] = true
		g.Go(func() error {
			err := to.blob(ctx, desc, from)
			m.sent(desc.Digest, err)
			return errors.Wrapf(err, "write blob %s", desc.Digest)
		})
	}
	return g.Wait()
}

// report tells what was exported.
func report(out *console.Printer, to target, img *image, layers []ocispecs.Descriptor) error {
	var total int64
	for _, desc := range layers {
		total += desc.Size
	}
	out.Printf("image  %s\n       %s, %s, %d layers, %s\n", console.Printable(to.name()), img.manifest.Digest,
		platforms.Format(img.platform), len(layers), console.Bytes(total))
	for i, desc := range layers {
		out.Printf("layer  %d/%d  %s  %s  %s\n", i+1, len(layers), desc.Digest, console.Bytes(desc.Size), compressionOf(desc))
	}
	return out.Err
}

// compressionOf names the compression of a layer's blob, as far as its descriptor tells.
func compressionOf(desc ocispecs.Descriptor) string {
	_, indexed := desc.Annotations[annotationTOC]
	switch {
	case indexed:
		return "estargz"
	case strings.HasSuffix(desc.MediaType, "gzip"):
		return "gzip"
	case strings.HasSuffix(desc.MediaType, "zstd"):
		return "zstd"
	}
	return "uncompressed"
}

// defaultPlatform is this machine's, but Linux where images of the system's own kind are not made.
func defaultPlatform() ocispecs.Platform {
	p := platforms.DefaultSpec()
	if runtime.GOOS != "windows" {
		p.OS, p.OSVersion = "linux", ""
	}
	return p
}
