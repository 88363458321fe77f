package cache

import (
	"context"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// hanging is a provider whose readers give nothing until they are closed.
type hanging struct{ opened []*hangingReader }

func (h *hanging) ReaderAt(context.Context, ocispecs.Descriptor) (content.ReaderAt, error) {
	r := &hangingReader{reading: make(chan struct{}), closed: make(chan struct{})}
	h.opened = append(h.opened, r)
	return r, nil
}

type hangingReader struct {
	once            sync.Once
	reading, closed chan struct{}
}

func (r *hangingReader) ReadAt([]byte, int64) (int, error) {
	close(r.reading)
	<-r.closed
	return 0, errors.New("closed by somebody")
}

func (r *hangingReader) Size() int64 { return 100 }

func (r *hangingReader) Close() error {
	r.once.Do(func() { close(r.closed) })
	return nil
}

// TestCloseEndsAFirstRead: an embedder's transfer may close the reader to end a read that hangs, the first one, too; nothing stays open.
func TestCloseEndsAFirstRead(t *testing.T) { // spec PULL-2, fault 26
	for _, offset := range []int64{0, 50} {
		back := &hanging{}
		ra, err := resuming{back}.ReaderAt(t.Context(), ocispecs.Descriptor{})
		require.NoError(t, err)
		first := back.opened[0]
		read, closed := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := ra.ReadAt(make([]byte, 10), offset)
			read <- err
		}()
		<-first.reading
		go func() { closed <- ra.Close() }()
		for _, c := range []chan error{closed, read} {
			select {
			case err = <-c:
			case <-time.After(time.Minute):
				require.NoError(t, first.Close()) // lets the read end
				require.Fail(t, "Close waits for the read that it is to end")
			}
		}
		require.Error(t, err)
		if offset > 0 { // it looked as if the reader could not begin in the middle
			require.ErrorIs(t, err, fs.ErrClosed)
			require.Len(t, back.opened, 2)
		}
		for _, r := range back.opened {
			<-r.closed
		}
	}
}
