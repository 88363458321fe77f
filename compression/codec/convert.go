package codec

import (
	"context"
	"crypto/rand"
	"io"
	"maps"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/internal/decompress"
	"github.com/layercache/cache/internal/ingest"
)

// openBlob opens the archive inside a blob, whatever that is compressed with: its first bytes tell, and an index at
// its end is left out.
func openBlob(ctx context.Context, cs content.Store, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	indexed, err := IsEStargz(ctx, cs, desc.Digest)
	if err != nil {
		return nil, err
	}
	ra, err := cs.ReaderAt(ctx, desc)
	if err != nil {
		return nil, errors.Wrapf(err, "opening blob %s", desc.Digest)
	}
	size := ra.Size()
	if indexed {
		off, ok := indexOffset(io.NewSectionReader(ra, 0, size))
		if !ok {
			_ = ra.Close()
			return nil, errors.Wrapf(errdefs.ErrDataLoss, "blob %s is no estargz, though labelled so", desc.Digest)
		}
		size = off
	}
	r, err := decompress.New(ctx, io.NewSectionReader(ra, 0, size))
	if err != nil {
		_ = ra.Close()
		return nil, errors.Wrapf(err, "reading blob %s", desc.Digest)
	}
	return &blobReader{Reader: r, blob: ra}, nil
}

type blobReader struct {
	*decompress.Reader
	blob io.Closer
}

// Close ends the decoding before what it reads from is closed.
func (r *blobReader) Close() error {
	err := r.Reader.Close()
	if cerr := r.blob.Close(); err == nil {
		err = cerr
	}
	return err
}

// Convert makes a blob of another compression with the same archive in it, and returns its descriptor, which has the target's OCI
// media type, and as annotations the diff ID and what the target adds. URLs lead to the source only, so they do not carry
// over (spec COMP-4, quirk Q50). The source stays as it is and has to be local; a blob that needs no conversion is
// returned unchanged. What is written is protected by the context's lease. If the source is not what its annotation
// says, that is errdefs' "data loss". After an error nothing is left, and no ingest either.
func Convert(ctx context.Context, cs content.Store, desc ocispecs.Descriptor, cfg compression.Config) (_ ocispecs.Descriptor, err error) {
	if cfg.Type == nil {
		cfg.Type = Default
	}
	needs, err := cfg.Type.NeedsConversion(ctx, cs, desc)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	if !needs {
		return desc, nil
	}
	from, err := FromMediaType(desc.MediaType)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	// The reference is nobody else's: what another conversion writes may be of another level.
	ref := "convert-" + desc.Digest.String() + "-" + cfg.Type.String() + "-" + rand.Text()
	defer func() {
		if err == nil {
			return
		}
		if aerr := cs.Abort(context.WithoutCancel(ctx), ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			log.G(ctx).WithError(aerr).Warn("layer cache: what a conversion wrote is left")
		}
	}()
	w, err := ingest.OpenWriter(ctx, cs, content.WithRef(ref))
	if err != nil { // which need not mean that it was not opened: the answer may have got lost
		return ocispecs.Descriptor{}, errors.Wrap(err, "opening the new blob")
	}
	defer func() {
		if cerr := w.Close(); cerr != nil {
			log.G(ctx).WithError(cerr).Debug("closing a converted blob")
		}
	}()
	compress, finalize := cfg.Type.Compress(ctx, cfg)
	diffID, err := rewrite(ctx, cs, desc, from, w, compress, cfg.Type.MediaType())
	if err != nil {
		return ocispecs.Descriptor{}, errors.Wrapf(err, "converting blob %s to %s", desc.Digest, cfg.Type)
	}
	out, err := commitBlob(ctx, cs, w, diffID)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	out.MediaType = cfg.Type.MediaType()
	if finalize != nil {
		more, err := finalize(ctx, cs)
		if err != nil {
			return ocispecs.Descriptor{}, errors.Wrapf(err, "finishing blob %s", out.Digest)
		}
		maps.Copy(out.Annotations, more)
	}
	return out, nil
}

// rewrite copies the archive of a blob into w and returns the archive's digest.
func rewrite(ctx context.Context, cs content.Store, desc ocispecs.Descriptor, from compression.Type, w io.Writer, compress compression.Compressor, mediaType string) (_ digest.Digest, err error) {
	indexed, err := IsEStargz(ctx, cs, desc.Digest)
	if err != nil {
		return "", err
	}
	src, err := from.Decompress(ctx, cs, desc)
	if err != nil {
		return "", err
	}
	defer src.Close()
	dest, err := compress(w, mediaType)
	if err != nil {
		return "", err
	}
	diffID := digest.Canonical.Digester()
	_, err = io.Copy(io.MultiWriter(dest, diffID.Hash()), src)
	if cerr := dest.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", err
	}
	// The diff ID of an estargz blob counts its index, which is not read.
	if want := desc.Annotations[labels.LabelUncompressed]; want != "" && !indexed && want != diffID.Digest().String() {
		return "", errors.Wrapf(errdefs.ErrDataLoss, "uncompressed it is %s, not %s", diffID.Digest(), want)
	}
	return diffID.Digest(), nil
}

// commitBlob commits a blob whose archive has the digest diffID. One that exists already will do; it may lack the label.
func commitBlob(ctx context.Context, cs content.Store, w content.Writer, diffID digest.Digest) (ocispecs.Descriptor, error) {
	label := map[string]string{labels.LabelUncompressed: diffID.String()}
	err := w.Commit(ctx, 0, "", content.WithLabels(label))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return ocispecs.Descriptor{}, errors.Wrap(err, "committing the new blob")
	}
	d := w.Digest()
	info, ierr := cs.Info(ctx, d)
	if ierr == nil && err != nil && info.Labels[labels.LabelUncompressed] == "" {
		_, ierr = cs.Update(ctx, content.Info{Digest: d, Labels: label}, "labels."+labels.LabelUncompressed)
	}
	if ierr != nil {
		return ocispecs.Descriptor{}, errors.Wrapf(ierr, "looking at the new blob %s", d)
	}
	return ocispecs.Descriptor{Digest: d, Size: info.Size, Annotations: label}, nil
}
