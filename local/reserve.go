package local

import (
	"crypto/rand"
	stderrors "errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/log"
	"github.com/pkg/errors"
)

// This file keeps space back, so that a prune can write its books on a disk that is full.

const (
	reserveFile = "layercache.reserve"
	// defaultReserve is twice what a transaction of a prune takes in a database if each of the 512 rows that it marks, and of the 512 that it
	// removes, is on a page of 4 KiB of its own: some filesystems never write in place, and give back late what was there before.
	defaultReserve = 8 << 20
)

// reserve is a file that occupies space and has nothing in it. It is a cache.SpaceReserve.
type reserve struct {
	path string
	size int64
	mu   sync.Mutex
}

func newReserve(dir string, size int64) *reserve {
	if size == 0 {
		size = defaultReserve
	}
	return &reserve{path: filepath.Join(dir, reserveFile), size: max(size, 0)}
}

// Keep implements cache.SpaceReserve.
func (r *reserve) Keep() (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if info, err := os.Lstat(r.path); err == nil && info.Mode().IsRegular() && info.Size() == r.size {
		return nil
	}
	if err := r.remove(); err != nil || r.size == 0 {
		return err
	}
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, databaseMode)
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = errors.WithStack(cerr)
		}
		if err != nil {
			err = stderrors.Join(err, r.remove())
		}
	}()
	if done, err := allocate(f, r.size); done || err != nil {
		return errors.WithStack(err)
	}
	_, err = io.CopyN(f, rand.Reader, r.size) // which no filesystem makes smaller
	return errors.WithStack(err)
}

// Release implements cache.SpaceReserve.
func (r *reserve) Release() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Some filesystems free what a removed file had only a while later.
	if err := os.Truncate(r.path, 0); err != nil && !os.IsNotExist(err) {
		return errors.WithStack(err)
	}
	return r.remove()
}

// Kept implements cache.SpaceReserve.
func (r *reserve) Kept() (name string, bytes int64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Lstat(r.path)
	switch {
	case os.IsNotExist(err):
		return r.path, 0, nil
	case err != nil:
		return r.path, 0, errors.WithStack(err)
	}
	return r.path, info.Size(), nil
}

func (r *reserve) remove() error {
	if err := os.Remove(r.path); err != nil && !os.IsNotExist(err) {
		return errors.WithStack(err)
	}
	return nil
}

// keepReserve makes the reserve at the start. Without one the cache works, too: the disk may be full by now.
func (p *Parts) keepReserve() {
	if err := p.reserve.Keep(); err != nil {
		log.L.WithError(err).Warn("layer cache: no space is kept back for a prune on a full disk")
	}
}
