package local

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// openSync makes what flushes the filesystem of the snapshots. The directory stays open all the time: the kernel tells
// an error of writing back once to everyone who had a file open then.
func (p *Parts) openSync() error {
	dir, err := os.Open(filepath.Join(p.Dir, snapshotsDir))
	if err != nil {
		return errors.Wrap(err, "open snapshots for flushing")
	}
	p.closers = append(p.closers, dir.Close)
	p.syncFS = func(ctx context.Context) error { return p.flush(ctx, dir) }
	return nil
}

// flush writes what the kernel holds of the filesystem to disk. If ctx ends first it goes on, and Close waits for it.
func (p *Parts) flush(ctx context.Context, dir *os.File) error {
	if err := ctx.Err(); err != nil {
		return errors.WithStack(err)
	}
	if err := p.running.begin(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer p.running.end()
		done <- syncError(unix.Syncfs(int(dir.Fd())))
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Wrap(ctx.Err(), "flushing goes on in the background")
	}
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
