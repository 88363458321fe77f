package differ

import (
	"bufio"
	"context"
	"io"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/ingest"
	"github.com/layercache/cache/internal/treediff"
)

// labelUncompressed is the label of a blob with the digest of its archive.
const labelUncompressed = "containerd.io/uncompressed"

// storeBuffer is how much is written to the content store at once, which makes system calls and a step of a digest of it.
const storeBuffer = 256 << 10

// pack writes the blob.
func (d *Differ) pack(ctx context.Context, s *settings, lower, upper treediff.Layers) (_ ocispecs.Descriptor, err error) {
	cw, err := ingest.OpenWriter(ctx, d.cs, content.WithRef(s.ref), content.WithDescriptor(ocispecs.Descriptor{MediaType: s.mediaType}))
	if err != nil {
		return ocispecs.Descriptor{}, errors.Wrapf(err, "opening an upload for %s", s.ref)
	}
	committing := false
	defer func() {
		if err == nil {
			return
		}
		if !committing { // Commit closes the writer, whatever becomes of it
			if cerr := cw.Close(); cerr != nil {
				log.G(ctx).WithError(cerr).Warnf("differ: upload %s could not be closed", s.ref)
			}
		}
		if s.own {
			if aerr := d.cs.Abort(context.WithoutCancel(ctx), s.ref); aerr != nil && !errdefs.IsNotFound(aerr) {
				log.G(ctx).WithError(aerr).Warnf("differ: upload %s could not be removed", s.ref)
			}
		}
	}()
	if err := cw.Truncate(0); err != nil {
		return ocispecs.Descriptor{}, errors.Wrapf(err, "starting upload %s anew", s.ref)
	}
	diffID, err := d.fill(ctx, s, cw, lower, upper)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	blob := cw.Digest()
	if diffID == "" {
		diffID = blob
	}
	s.labels[labelUncompressed] = diffID.String()
	committing = true
	err = cw.Commit(ctx, 0, blob, content.WithLabels(s.labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispecs.Descriptor{}, errors.Wrapf(err, "committing upload %s", s.ref)
	}
	return d.describe(ctx, s, blob, diffID)
}

// describe returns the descriptor of the blob, and sets its label if somebody else made it and did not.
func (d *Differ) describe(ctx context.Context, s *settings, blob, diffID digest.Digest) (ocispecs.Descriptor, error) {
	info, err := d.cs.Info(ctx, blob)
	if err != nil {
		return ocispecs.Descriptor{}, errors.Wrapf(err, "looking at blob %s", blob)
	}
	if info.Labels[labelUncompressed] == "" {
		change := content.Info{Digest: blob, Labels: map[string]string{labelUncompressed: diffID.String()}}
		if _, err := d.cs.Update(ctx, change, "labels."+labelUncompressed); err != nil {
			return ocispecs.Descriptor{}, errors.Wrapf(err, "labelling blob %s", blob)
		}
	}
	return ocispecs.Descriptor{MediaType: s.mediaType, Digest: blob, Size: info.Size}, nil
}

// fill writes the archive, through the compressor if there is one. It returns the archive's digest; none means the blob's.
func (d *Differ) fill(ctx context.Context, s *settings, cw content.Writer, lower, upper treediff.Layers) (digest.Digest, error) {
	write := func(w io.Writer) error { return d.archive(ctx, w, s.latest, lower, upper) }
	if s.compress == nil {
		return "", through(ctx, cw, write)
	}
	dest := &destination{Writer: cw}
	buffer := bufio.NewWriterSize(dest, storeBuffer)
	compressed, err := s.compress(buffer, s.mediaType)
	if err != nil {
		return "", errors.Wrap(err, "starting the compressor")
	}
	if t, ok := compressed.(transparent); ok && t.Transparent() {
		if err := compressed.Close(); err != nil {
			return "", errors.Wrap(err, "closing a compressor that is none")
		}
		return "", through(ctx, cw, write)
	}
	digester := digest.Canonical.Digester()
	if err := through(ctx, io.MultiWriter(digester.Hash(), compressed), write); err != nil {
		dest.ended.Store(true)
		_ = compressed.Close() // which ends its goroutines; what it writes is not wanted any more
		return "", err
	}
	if err := compressed.Close(); err != nil {
		return "", errors.Wrap(err, "compressing")
	}
	return digester.Digest(), errors.Wrap(buffer.Flush(), "writing the blob")
}

// transparent is a compressor that may say that it is none, as that of package codec does.
type transparent interface{ Transparent() bool }

// destination is what a compressor writes to, until it is over: what it then writes goes nowhere, which is no error, as some leave goroutines
// behind after one.
type destination struct {
	io.Writer
	ended atomic.Bool
}

func (d *destination) Write(p []byte) (int, error) {
	if d.ended.Load() {
		return len(p), nil
	}
	return d.Writer.Write(p)
}
