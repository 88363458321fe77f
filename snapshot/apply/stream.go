package apply

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/decompress"
	"github.com/layercache/cache/internal/layertype"
)

// stream is the archive in a blob, being read.
type stream struct {
	archive    *decompress.Reader
	digester   digest.Digester
	size       int64
	err        error // of the first Read that failed
	processors []diff.StreamProcessor
	closers    []func() error // run in reverse
}

// open starts reading the blob. The stream must be closed, and until then its context lasts.
func (j *job) open(ctx context.Context) (_ *stream, err error) {
	s := &stream{digester: digest.Canonical.Digester()}
	defer func() {
		if err != nil {
			_ = s.close() // the error that counts is the first
		}
	}()
	readerCtx, cancel := context.WithCancel(ctx)
	ra, err := j.provider.ReaderAt(readerCtx, j.desc)
	if err != nil {
		cancel()
		return nil, errors.Wrap(err, "opening the blob")
	}
	s.closers = append(s.closers, ra.Close)
	var src io.Reader = content.NewReader(ra)
	if j.config.Progress != nil {
		src = &progressReader{Reader: src, job: j}
		s.closers = append(s.closers, func() error { j.report(j.reported); return nil })
	}
	s.closers = append(s.closers, func() error { cancel(); return nil })
	if src, err = s.process(readerCtx, j, src); err != nil {
		return nil, err
	}
	if s.archive, err = decompress.New(readerCtx, src); err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error {
		cancel() // whatever reads is told to stop before its goroutine is waited for
		return s.archive.Close()
	})
	return s, nil
}

// process makes a plain layer of a blob of another media type, by the processors that the program registered with containerd's
// package diff. They are asked only if the caller has payloads for them: containerd's own processor, which claims
// more types than it knows, starts programs to decompress.
func (s *stream) process(ctx context.Context, j *job, src io.Reader) (io.Reader, error) {
	mediaType := j.desc.MediaType
	for step := 0; !layertype.Common(mediaType); step++ {
		const most = 16 // they could hand a stream round in circles
		if len(j.config.ProcessorPayloads) == 0 || step == most {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "media type %q is not that of a layer", mediaType)
		}
		p, err := diff.GetProcessor(ctx, diff.NewProcessorChain(mediaType, src), j.config.ProcessorPayloads)
		if errors.Is(err, diff.ErrNoProcessor) {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "media type %q is not that of a layer, and no processor knows it", mediaType)
		} else if err != nil {
			return nil, errors.Wrapf(err, "processing media type %q", mediaType)
		}
		s.processors = append(s.processors, p)
		s.closers = append(s.closers, p.Close)
		src, mediaType = p, p.MediaType()
	}
	return src, nil
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.archive.Read(p)
	s.size += int64(n)
	_, _ = s.digester.Hash().Write(p[:n]) // a hash takes everything
	if err != nil && !errors.Is(err, io.EOF) && s.err == nil {
		s.err = err
	}
	return n, err
}

// processed tells whether the processors, which may be programs, did their work to the end.
func (s *stream) processed() error {
	for _, p := range s.processors {
		if p, ok := p.(interface{ Err() error }); ok {
			if err := p.Err(); err != nil {
				return errors.Wrap(err, "processing the blob")
			}
		}
	}
	return nil
}

func (s *stream) close() (err error) {
	for i := len(s.closers) - 1; i >= 0; i-- {
		if cerr := s.closers[i](); cerr != nil && err == nil {
			err = errors.Wrap(cerr, "closing the blob")
		}
	}
	return err
}

// progressReader reports how much has been read of the blob.
type progressReader struct {
	io.Reader
	job *job
	n   int64
}

func (r *progressReader) Read(p []byte) (int, error) {
	r.job.report(r.n)
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	if err != nil {
		r.job.report(r.n)
	}
	return n, err
}

// report calls Progress; when a layer is read again it stays where it was until there is something new.
func (j *job) report(n int64) {
	j.reported = max(j.reported, n)
	j.config.Progress(j.reported)
}
