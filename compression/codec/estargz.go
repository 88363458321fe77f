package codec

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"strconv"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/internal/layertype"
)

// labelEStargz is on a blob that was looked at: whether it is estargz. BuildKit reads and writes it, too (spec COMP-3).
const labelEStargz = "buildkit.io/compression/estargz"

// estargzType implements EStargz.
type estargzType struct{}

// Compress returns a compressor that keeps every byte of the archive, which must not hold an entry named like the index. Its finalizer
// labels the blob, which must be in the store by then, and tells the digest of the index and the size
// and digest of what gzip makes of the blob (spec COMP-5).
func (estargzType) Compress(_ context.Context, cfg compression.Config) (compression.Compressor, compression.Finalizer) {
	var mu sync.Mutex
	var last *estargzWriter
	compress := func(dest io.Writer, mediaType string) (io.WriteCloser, error) {
		cfg.Type = EStargz
		if err := CheckLevel(cfg); err != nil {
			return nil, err
		}
		if layertype.CompressionOf(mediaType) != layertype.Gzip {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "media type %q cannot be that of an estargz blob", mediaType)
		}
		w := newEStargzWriter(dest, gzipLevel(cfg))
		mu.Lock()
		defer mu.Unlock()
		last = w
		return w, nil
	}
	finalize := func(ctx context.Context, cs content.Store) (map[string]string, error) {
		mu.Lock()
		w := last
		mu.Unlock()
		if w == nil {
			return nil, errors.Wrap(errdefs.ErrFailedPrecondition, "no estargz blob was written")
		}
		return w.finalize(ctx, cs)
	}
	return compress, finalize
}

func (estargzType) Decompress(ctx context.Context, cs content.Store, desc ocispecs.Descriptor) (io.ReadCloser, error) {
	return openBlob(ctx, cs, desc)
}

func (estargzType) NeedsConversion(ctx context.Context, cs content.Store, desc ocispecs.Descriptor) (bool, error) {
	if layertype.CompressionOf(desc.MediaType) == layertype.Unknown {
		return false, nil
	}
	is, err := IsEStargz(ctx, cs, desc.Digest)
	return !is, err
}

func (estargzType) NeedsComputeDiffBySelf(compression.Config) bool { return true }
func (estargzType) OnlySupportOCITypes() bool                      { return true }
func (estargzType) MediaType() string                              { return ocispecs.MediaTypeImageLayerGzip }
func (estargzType) String() string                                 { return "estargz" }

// estargzWriter makes an estargz blob of an archive. The library wants to read it, so there is a goroutine, for which Close waits.
type estargzWriter struct {
	pipe *io.PipeWriter
	done chan struct{} // closed when the rest is set
	err  error
	toc  digest.Digest
	// blob and plain are the digests of what was written, and of what gzip makes of it, index included; size is that of the latter.
	blob, plain digest.Digest
	size        int64
}

func newEStargzWriter(dest io.Writer, level int) *estargzWriter {
	r, w := io.Pipe()
	e := &estargzWriter{pipe: w, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		e.err = e.run(dest, r, level)
		_ = r.CloseWithError(e.err) // so that the next write fails as well
	}()
	return e
}

func (e *estargzWriter) run(dest io.Writer, r io.Reader, level int) error {
	blob := digest.Canonical.Digester()
	index := &indexCounter{GzipCompressor: estargz.NewGzipCompressorWithLevel(level)}
	archive := &counter{Reader: r}
	out := &faultWriter{Writer: dest}
	w := estargz.NewWriterWithCompressor(io.MultiWriter(out, blob.Hash()), index)
	if err := w.AppendTarLossLess(archive); err != nil {
		if out.err != nil {
			return out.err
		}
		return errors.Wrapf(errdefs.ErrInvalidArgument, "making estargz of the archive: %v", err)
	}
	toc, err := w.Close()
	if err != nil {
		return errors.Wrap(err, "writing the index")
	}
	e.toc, e.blob, e.plain, e.size = toc, blob.Digest(), digest.Digest(w.DiffID()), archive.n+index.n
	return nil
}

func (e *estargzWriter) Write(p []byte) (int, error) { return e.pipe.Write(p) }

// Close ends the archive and returns when the blob is complete, or cannot be.
func (e *estargzWriter) Close() error {
	_ = e.pipe.Close() // never fails
	<-e.done
	return e.err
}

func (e *estargzWriter) finalize(ctx context.Context, cs content.Store) (map[string]string, error) {
	select {
	case <-e.done:
	default:
		return nil, errors.Wrap(errdefs.ErrFailedPrecondition, "the estargz blob is still being written")
	}
	if e.err != nil {
		return nil, errors.WithMessage(e.err, "the estargz blob is not complete")
	}
	label := content.Info{Digest: e.blob, Labels: map[string]string{labels.LabelUncompressed: e.plain.String(), labelEStargz: "true"}}
	if _, err := cs.Update(ctx, label, "labels."+labels.LabelUncompressed, "labels."+labelEStargz); err != nil {
		return nil, errors.Wrapf(err, "labelling blob %s", e.blob)
	}
	return map[string]string{
		estargz.TOCJSONDigestAnnotation:         e.toc.String(),
		estargz.StoreUncompressedSizeAnnotation: strconv.FormatInt(e.size, 10),
		labels.LabelUncompressed:                e.plain.String(),
	}, nil
}

// counter counts what is read.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// indexCounter counts how many bytes the index adds to what gzip makes of the blob.
type indexCounter struct {
	*estargz.GzipCompressor
	n int64
}

func (c *indexCounter) WriteTOCAndFooter(w io.Writer, off int64, toc *estargz.JTOC, diffHash hash.Hash) (digest.Digest, error) {
	if diffHash == nil {
		diffHash = sha256.New()
	}
	return c.GzipCompressor.WriteTOCAndFooter(w, off, toc, &countingHash{Hash: diffHash, n: &c.n})
}

type countingHash struct {
	hash.Hash
	n *int64
}

func (h *countingHash) Write(p []byte) (int, error) {
	n, err := h.Hash.Write(p)
	*h.n += int64(n)
	return n, err
}

// IsEStargz tells whether a blob is estargz: it has the footer, and the index is its last entry. What is not in the store is not. The
// answer is kept as a label of the blob (spec COMP-3). An error is one of the store.
func IsEStargz(ctx context.Context, cs content.Store, d digest.Digest) (bool, error) {
	info, err := cs.Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, errors.Wrapf(err, "looking for blob %s", d)
	}
	if is, err := strconv.ParseBool(info.Labels[labelEStargz]); err == nil {
		return is, nil
	}
	ra, err := cs.ReaderAt(ctx, ocispecs.Descriptor{Digest: d, Size: info.Size})
	if err != nil {
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		return false, errors.Wrapf(err, "opening blob %s", d)
	}
	defer ra.Close()
	src := &faultReader{ReaderAt: ra}
	is := hasIndex(io.NewSectionReader(src, 0, ra.Size()))
	if src.err != nil {
		return false, errors.Wrapf(src.err, "reading blob %s", d)
	}
	_, err = cs.Update(ctx, content.Info{Digest: d, Labels: map[string]string{labelEStargz: strconv.FormatBool(is)}}, "labels."+labelEStargz)
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return is, errors.Wrapf(err, "labelling blob %s", d)
}

// hasIndex looks for footer and index. Whatever is wrong with the blob, it has none.
func hasIndex(blob *io.SectionReader) bool {
	off, ok := indexOffset(blob)
	if !ok {
		return false
	}
	r, err := new(estargz.GzipDecompressor).Reader(io.NewSectionReader(blob, off, blob.Size()-off))
	if err != nil {
		return false
	}
	defer r.Close()
	archive := tar.NewReader(r)
	h, err := archive.Next()
	if err != nil || h.Name != estargz.TOCTarName {
		return false
	}
	_, err = archive.Next()
	return errors.Is(err, io.EOF)
}

// indexOffset returns where the footer of a blob says that the index begins; ok is false without a footer.
func indexOffset(blob *io.SectionReader) (off int64, ok bool) {
	defer func() {
		if recover() != nil { // the library does not check the length of the field that it looks into
			off, ok = 0, false
		}
	}()
	off, _, err := estargz.OpenFooter(blob)
	return off, err == nil && off >= 0 && off <= blob.Size()
}

// faultWriter remembers an error of the destination, which is nothing that the archive is to blame for.
type faultWriter struct {
	io.Writer
	err error
}

func (w *faultWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		w.err = err
	}
	return n, err
}

// faultReader remembers an error of the store, which is nothing that the data are to blame for.
type faultReader struct {
	content.ReaderAt
	err error
}

func (r *faultReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) && r.err == nil {
		r.err = err
	}
	return n, err
}
