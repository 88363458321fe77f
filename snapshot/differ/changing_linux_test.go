package differ

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

// A file that is something else by the time it is opened is an error at once, and waits for nobody (fault 44).
func TestReplacedFile(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"fifo":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"link":    func(path string) error { return os.Symlink("/dev/zero", path) },
		"dir":     func(path string) error { return os.Mkdir(path, 0o755) },
		"nothing": func(string) error { return nil },
		"other":   func(path string) error { return os.WriteFile(path, []byte("other content"), 0o600) },
		"equal":   func(path string) error { return os.WriteFile(path, []byte("content"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			require.NoError(t, os.WriteFile(path, []byte("content"), 0o600))
			keep, err := os.Open(path) // its inode is not used again
			require.NoError(t, err)
			defer keep.Close()
			a := &archiver{ctx: t.Context(), tw: tar.NewWriter(io.Discard), layout: &Layout{}, buf: make([]byte, readBuffer+1)}
			below := t.TempDir() // with another file of that name, which makes the walk look at ours before it opens it
			require.NoError(t, os.WriteFile(filepath.Join(below, "f"), []byte("below"), 0o600))
			err = treediff.Walk(t.Context(), treediff.Layers{Dirs: []string{below}}, treediff.Layers{Dirs: []string{dir}}, func(i treediff.Item) error {
				if err := os.Remove(path); err != nil {
					return err
				}
				if err := replace(path); err != nil {
					return err
				}
				return a.item(i)
			})
			require.Error(t, err)
			require.ErrorContains(t, err, `"f"`)
			if name != "link" && name != "nothing" {
				require.True(t, errdefs.IsAborted(err), "%v", err)
			}
		})
	}
}

// during writes an archive of one large file, and calls change when its first bytes have come through.
func during(ctx context.Context, t *testing.T, change func(path string)) (n int64, err error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "large")
	const size = 64 << 20 // far more than is read ahead
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, size))
	d, w := &Differ{}, &once{change: func() { change(path) }}
	err = through(ctx, w, func(w io.Writer) error {
		return d.archive(ctx, w, nil, treediff.Layers{}, treediff.Layers{Dirs: []string{dir}})
	})
	return w.n, err
}

type once struct {
	change func()
	n      int64
}

func (o *once) Write(p []byte) (int, error) {
	if o.n == 0 {
		o.change()
	}
	o.n += int64(len(p))
	return len(p), nil
}

// A file that loses or gains content while it is read is an error, and not an archive with other bytes than it says (fault 13).
func TestChangingFile(t *testing.T) {
	for name, size := range map[string]int64{"shorter": 32 << 20, "empty": 0, "longer": 64<<20 + 1, "much longer": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			_, err := during(t.Context(), t, func(path string) { require.NoError(t, os.Truncate(path, size)) })
			require.True(t, errdefs.IsAborted(err), "%v", err)
			require.ErrorContains(t, err, `"large"`)
		})
	}
}

// The end of the context ends the packing of a large file, of many files, and the wait for whoever takes the bytes (spec OVL-6).
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n, err := during(ctx, t, func(string) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, n, int64(8<<20), "what was read ahead, and no more")

	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = during(ctx, t, func(string) { <-ctx.Done() })
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A destination that fails ends the packing, and its error counts.
func TestDestinationFails(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), make([]byte, 8<<20), 0o600))
	r, w := io.Pipe()
	require.NoError(t, r.CloseWithError(errdefs.ErrResourceExhausted))
	err := through(t.Context(), w, func(w io.Writer) error {
		return (&Differ{}).archive(t.Context(), w, nil, treediff.Layers{}, treediff.Layers{Dirs: []string{dir}})
	})
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	require.NotContains(t, err.Error(), "directory /")
}
