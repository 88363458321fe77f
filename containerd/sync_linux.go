package containerd

import (
	"context"
	"os"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// openSync makes what flushes the filesystem of the snapshots. The directory stays open all the time: the kernel tells
// an error of writing back once to everyone who had a file open then.
func (p *Parts) openSync() error {
	if p.SnapshotterRoot == "" {
		return nil
	}
	dir, err := os.Open(p.SnapshotterRoot)
	if err != nil {
		return errors.Wrap(err, "open snapshots for flushing")
	}
	var f flusher
	f.dir = dir
	p.closers = append(p.closers, f.close)
	p.syncFS = f.flush
	return nil
}

// flusher flushes a filesystem. Calls that were given up go on, and close waits for them.
type flusher struct {
	dir *os.File
	running
}

func (f *flusher) flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return errors.WithStack(err)
	}
	if !f.begin() {
		return errors.WithStack(ErrClosed)
	}
	done := make(chan error, 1)
	go func() {
		defer f.end()
		done <- syncError(unix.Syncfs(int(f.dir.Fd())))
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Wrap(ctx.Err(), "flushing goes on in the background")
	}
}

func (f *flusher) close() error {
	f.finish()
	return f.dir.Close()
}

// syncError tells errors of the disk, after which the kernel has given up what it could not write, from others.
func syncError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EIO), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return errors.Wrapf(errdefs.ErrDataLoss, "syncfs: %v", err)
	}
	return errors.Wrap(err, "syncfs")
}
