package cache

import (
	"context"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/ingest"
	"github.com/layercache/cache/snapshot"
)

// This file chooses who writes a blob (spec BLOB-5).

// envForceOverlayDiff is BuildKit's switch, for tests, between the ways to find out what an overlay's layer holds.
const envForceOverlayDiff = "BUILDKIT_DEBUG_FORCE_OVERLAY_DIFF"

// comparer writes what is between two trees as a blob.
type comparer func(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error)

// compare writes the blob in the first of these ways that applies: the snapshotter's own device; an overlay's upper directory; the
// library's differ, for compressions that others may not know; the configured differ.
func (p *packJob) compare(ctx context.Context, lower, upper []mount.Mount) (ocispecs.Descriptor, compression.Finalizer, error) {
	m := p.m
	none := ocispecs.Descriptor{}
	if m.caps.DeviceCommit {
		device, err := p.device(ctx)
		if err != nil {
			return none, nil, err
		}
		if device != "" {
			desc, err := p.commitDevice(ctx, device)
			return desc, nil, err
		}
	}
	overlay, forced, err := p.overlayDiff()
	if err != nil {
		return none, nil, err
	}
	if overlay {
		desc, finalize, err := p.attempt(ctx, m.differ.CompareUpper, lower, upper)
		if err == nil || forced || ctx.Err() != nil {
			return desc, finalize, errors.WithMessage(err, "reading the upper directory")
		}
		if m.caps.OverlayBased && p.rec.Kind() != graph.Diff {
			log.G(ctx).WithError(err).WithField("record", p.st.Imm).Warn("layer cache: a layer's upper directory could not be read by itself")
		}
	}
	if !p.windows && (p.cfg.Type.NeedsComputeDiffBySelf(p.cfg) || m.opt.Differ == nil) {
		desc, finalize, err := p.attempt(ctx, m.differ.Compare, lower, upper)
		if err == nil || ctx.Err() != nil || m.opt.Differ == nil {
			return desc, finalize, err
		}
		log.G(ctx).WithError(err).WithField("record", p.st.Imm).Warn("layer cache: the configured differ is asked, which may not know the compression")
	}
	if m.opt.Differ == nil {
		return none, nil, errors.Wrap(errdefs.ErrFailedPrecondition, "packing Windows layers requires a differ")
	}
	return p.untilAvailable(ctx, m.opt.Differ.Compare, lower, upper)
}

// overlayDiff tells whether to read upper directories, and whether in no other way.
func (p *packJob) overlayDiff() (overlay, forced bool, err error) {
	if text := os.Getenv(envForceOverlayDiff); text != "" && p.rec.Kind() != graph.Diff {
		overlay, err := strconv.ParseBool(text)
		if err != nil {
			return false, false, errors.Wrapf(errInvalid, "%s is %q, which is no boolean", envForceOverlayDiff, text)
		}
		return overlay, overlay, nil
	}
	return !p.windows && !p.m.caps.NeverOverlayDiff, false, nil
}

// attempt has a differ write the blob, with a compressor of its own. The name of the write is the record's, so that others who
// write the same wait (spec BLOB-6).
func (p *packJob) attempt(ctx context.Context, compare comparer, lower, upper []mount.Mount) (ocispecs.Descriptor, compression.Finalizer, error) {
	compress, finalize := p.cfg.Type.Compress(ctx, p.cfg)
	opts := []diff.Opt{diff.WithMediaType(p.cfg.Type.MediaType()), diff.WithReference(p.st.Imm)}
	if compress != nil {
		opts = append(opts, diff.WithCompressor(compress))
	}
	desc, err := compare(ctx, lower, upper, opts...)
	if err != nil {
		return ocispecs.Descriptor{}, nil, err
	}
	return desc, finalize, nil
}

// Pauses before another attempt with a differ that is not available: random ones below a bound that doubles.
const (
	firstBound = 16 * time.Millisecond
	lastBound  = 2048 * time.Millisecond
)

// untilAvailable attempts it again for as long as the differ says that it is not available (scenario S-35), unless the content store is not either:
// then both are in another process, which is gone.
func (p *packJob) untilAvailable(ctx context.Context, compare comparer, lower, upper []mount.Mount) (ocispecs.Descriptor, compression.Finalizer, error) {
	for bound := firstBound; ; bound = min(2*bound, lastBound) {
		desc, finalize, err := p.attempt(ctx, compare, lower, upper)
		if err == nil || !errdefs.IsUnavailable(err) || ctx.Err() != nil {
			return desc, finalize, err
		}
		if _, serr := p.m.opt.ContentStore.Status(ctx, p.st.Imm); errdefs.IsUnavailable(serr) || errdefs.IsDeadlineExceeded(serr) {
			return desc, finalize, err
		}
		if !wait(ctx, rand.N(bound)) {
			return desc, finalize, err
		}
	}
}

// device returns the block device that holds the layer, "" if there is none (spec BLOB-5.4). A diff is packed without
// being extracted, so it may have no snapshot.
func (p *packJob) device(ctx context.Context) (string, error) {
	info, err := p.m.opt.Snapshotter.Stat(ctx, p.st.ImmSnapshot)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", errors.Wrapf(err, "looking for snapshot %q", p.st.ImmSnapshot)
	}
	return info.Labels[snapshot.LabelDevice], nil
}

// commitDevice makes the blob of what overlaybd makes of its device: one file, which is a layer as it is.
func (p *packJob) commitDevice(ctx context.Context, device string) (ocispecs.Descriptor, error) {
	seal := p.m.opt.Hooks.CommitDevice
	if seal == nil {
		seal = commitOverlaybd
	}
	name, err := seal(ctx, device)
	if err != nil {
		return ocispecs.Descriptor{}, errors.Wrapf(err, "committing device %q", device)
	}
	f, err := os.Open(name)
	if err != nil {
		return ocispecs.Descriptor{}, errors.WithStack(err)
	}
	defer f.Close()
	w, err := ingest.OpenWriter(ctx, p.m.opt.ContentStore, content.WithRef(p.st.Imm))
	if err != nil {
		return ocispecs.Descriptor{}, errors.Wrap(err, "opening the blob")
	}
	size, err := writeAnew(ctx, w, f)
	if err != nil {
		if cerr := w.Close(); cerr != nil {
			log.G(ctx).WithError(cerr).WithField("record", p.st.Imm).Warn("layer cache: an unfinished blob could not be closed")
		}
		return ocispecs.Descriptor{}, err
	}
	d := w.Digest()
	about := map[string]string{labelDeviceDigest: d.String(), labelDeviceSize: strconv.FormatInt(size, 10)}
	labels := maps.Clone(about)
	labels[annotationUncompressed] = d.String()
	// Commit closes the writer, whatever becomes of it (spec BLOB-6).
	if err := w.Commit(ctx, size, d, content.WithLabels(labels)); err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispecs.Descriptor{}, errors.Wrap(err, "committing the blob")
	}
	return ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: d, Size: size, Annotations: about}, nil
}

// writeAnew replaces what a writer may have from another time.
func writeAnew(ctx context.Context, w content.Writer, device io.Reader) (size int64, err error) {
	if err := w.Truncate(0); err != nil {
		return 0, errors.Wrap(err, "emptying the blob")
	}
	size, err = io.Copy(w, contextReader{ctx, device})
	return size, errors.Wrap(err, "copying the device")
}

// commitOverlaybd runs the program that overlaybd comes with on the directory of a device.
func commitOverlaybd(ctx context.Context, device string) (string, error) {
	dir := filepath.Dir(device)
	unfinished, file := filepath.Join(dir, "overlaybd.commit.temp"), filepath.Join(dir, "overlaybd.commit")
	cmd := exec.CommandContext(ctx, "/opt/overlaybd/bin/overlaybd-commit", "--commit_sealed", filepath.Join(dir, "overlaybd.sealed"), unfinished, "-t", "-z", "-f")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Wrapf(err, "overlaybd-commit: %s", out)
	}
	return file, errors.WithStack(os.Rename(unfinished, file))
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one copy
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
