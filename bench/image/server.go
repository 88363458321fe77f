package image

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// Server serves the blobs of an image over HTTP on the loopback interface.
type Server struct {
	url    string
	server *http.Server
	client *http.Client
}

// Serve starts a server of the files in a directory.
func Serve(dir string) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.WithStack(err)
	}
	s := &Server{
		url:    "http://" + l.Addr().String() + "/",
		server: &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: time.Minute},
		client: &http.Client{Transport: &http.Transport{}},
	}
	go func() { _ = s.server.Serve(l) }() // always returns an error
	return s, nil
}

// Close ends all connections.
func (s *Server) Close() error {
	s.client.CloseIdleConnections()
	return errors.WithStack(s.server.Close())
}

// ReaderAt implements content.Provider. As with a registry, reading on where the last read ended is one request, and
// reading elsewhere is a new one.
func (s *Server) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	return &blob{ctx: ctx, s: s, desc: desc}, nil
}

type blob struct {
	ctx  context.Context //nolint:containedctx // ReadAt has none, and the interface says that this one lasts
	s    *Server
	desc ocispecs.Descriptor

	mu   sync.Mutex
	body io.ReadCloser
	at   int64
}

func (b *blob) Size() int64 { return b.desc.Size }

func (b *blob) ReadAt(p []byte, off int64) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if off >= b.desc.Size {
		return 0, io.EOF
	}
	if b.body == nil || b.at != off {
		if err := b.open(off); err != nil {
			return 0, err
		}
	}
	n, err := io.ReadFull(b.body, p[:min(int64(len(p)), b.desc.Size-off)])
	b.at += int64(n)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (b *blob) open(off int64) error {
	if err := b.close(); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, b.s.url+b.desc.Digest.Encoded(), nil)
	if err != nil {
		return errors.WithStack(err)
	}
	want := http.StatusOK
	if off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
		want = http.StatusPartialContent
	}
	res, err := b.s.client.Do(req)
	if err != nil {
		return errors.WithStack(err)
	}
	if res.StatusCode != want {
		_ = res.Body.Close() // nothing was read of it
		return errors.Errorf("blob %s from %d: %s", b.desc.Digest, off, res.Status)
	}
	b.body, b.at = res.Body, off
	return nil
}

func (b *blob) close() error {
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return errors.WithStack(err)
}

func (b *blob) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.close()
}
