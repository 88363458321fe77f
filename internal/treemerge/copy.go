//go:build linux

package treemerge

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

// cloneSupport remembers what the target's filesystem has refused, so that it is not asked for every file.
type cloneSupport struct{ noClone, noRange atomic.Bool }

// refused tells whether an error means that the kernel cannot do something with these files, rather than that it failed to. Always says
// that it will not do so with others either.
func refused(err error) (yes, always bool) {
	for _, e := range []error{unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EXDEV} {
		if errors.Is(err, e) {
			return true, true
		}
	}
	for _, e := range []error{unix.EINVAL, unix.EPERM, unix.ETXTBSY} { // such as a file that must not be copied on write
		if errors.Is(err, e) {
			return true, false
		}
	}
	return false, false
}

// copyFile makes a regular file like that of the upper tree. Created, if not nil, is called as soon as it has its name.
func (w *walk) copyFile(c *cursor, ch *treediff.Change, created func(inode)) (err error) {
	dirfd, from := ch.At()
	src, err := openRetry(dirfd, from, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Wrap(err, "opening the source")
	}
	defer func() { _ = unix.Close(src) }() // read only
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return errors.Wrap(err, "looking at the source")
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("the source is no regular file any more")
	}
	dst := -1
	err = w.put(c, ch.Name, func() (err error) {
		dst, err = openRetry(c.fd, ch.Name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return errors.Wrap(err, "creating it")
	}
	defer func() {
		if cerr := unix.Close(dst); cerr != nil && err == nil {
			err = errors.Wrap(cerr, "closing it")
		}
	}()
	if created != nil {
		var own unix.Stat_t
		if err := unix.Fstat(dst, &own); err != nil {
			return errors.Wrap(err, "looking at what was made")
		}
		created(inodeOf(&own))
	}
	if err := w.fill(dst, src, &st); err != nil {
		return err
	}
	return w.dressFile(c, ch, dst, src, &st)
}

func openRetry(dirfd int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags, mode)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// dressFile gives a copy its attributes: the owner first, since a change of owner takes others away, the times last.
func (w *walk) dressFile(c *cursor, ch *treediff.Change, dst, src int, st *unix.Stat_t) error {
	if err := unix.Fchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return errors.Wrap(err, "setting the owner")
	}
	if c.node.defaultACL {
		if err := dropACLs(dst); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(dst, st.Mode&0o7777); err != nil {
		return errors.Wrap(err, "setting the mode")
	}
	if err := w.copyXattrs(src, dst, ch.Name, nil); err != nil {
		return err
	}
	return errors.Wrap(setTimes(dst, st.Atim, st.Mtim), "setting the times")
}

// fill gives a new file the content of another, sharing its blocks if the filesystem can do that.
func (w *walk) fill(dst, src int, st *unix.Stat_t) error {
	if !w.clone.noClone.Load() && st.Size > 0 {
		err := w.sys.clone(dst, src)
		if err == nil {
			w.stats.cloned.Add(1)
			return nil
		}
		no, always := refused(err)
		if !no {
			return errors.Wrap(err, "cloning")
		}
		w.clone.noClone.Store(always)
	}
	w.stats.copied.Add(1)
	if st.Size == 0 {
		return nil
	}
	w.stats.bytes.Add(st.Size)
	if st.Blocks*512 >= st.Size {
		return w.copyRange(dst, src, 0, st.Size)
	}
	return w.copySparse(dst, src, st.Size)
}

// copySparse copies what is not a hole.
func (w *walk) copySparse(dst, src int, size int64) error {
	for off := int64(0); off < size; {
		data, err := unix.Seek(src, off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, unix.ENXIO):
			data = size // a hole up to the end
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
			return w.copyRange(dst, src, off, size) // the filesystem knows of no holes
		case err != nil:
			return errors.Wrap(err, "looking for data")
		}
		if data >= size {
			break
		}
		hole, err := unix.Seek(src, data, unix.SEEK_HOLE)
		if err != nil {
			return errors.Wrap(err, "looking for a hole")
		}
		hole = min(hole, size)
		if err := w.copyRange(dst, src, data, hole); err != nil {
			return err
		}
		off = hole
	}
	return errors.Wrap(unix.Ftruncate(dst, size), "setting the size")
}

// chunk is how much is copied between two looks at the context.
const chunk = 4 << 20

// small files are read and written: for them that is quicker than having the kernel do it.
const small = 64 << 10

// copyRange copies the bytes from off to end, to the same place.
func (w *walk) copyRange(dst, src int, off, end int64) error {
	for end-off > small && !w.clone.noRange.Load() {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		in, out := off, off
		n, err := w.sys.copyFileRange(src, &in, dst, &out, int(min(chunk, end-off)))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			no, always := refused(err)
			if !no {
				return errors.Wrap(err, "copying")
			}
			w.clone.noRange.Store(always)
			return w.readWrite(dst, src, off, end)
		case n == 0:
			return errors.Wrap(io.ErrUnexpectedEOF, "the source has become shorter")
		}
		off += int64(n)
	}
	return w.readWrite(dst, src, off, end)
}

var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

func (w *walk) readWrite(dst, src int, off, end int64) error {
	if off >= end {
		return nil
	}
	buf, _ := copyBuffers.Get().(*[256 << 10]byte)
	defer copyBuffers.Put(buf)
	for off < end {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		n, err := unix.Pread(src, buf[:min(int64(len(buf)), end-off)], off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return errors.Wrap(err, "reading")
		case n == 0:
			return errors.Wrap(io.ErrUnexpectedEOF, "the source has become shorter")
		}
		for rest := buf[:n]; len(rest) > 0; {
			m, err := unix.Pwrite(dst, rest, off)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return errors.Wrap(err, "writing")
			}
			rest, off = rest[m:], off+int64(m)
		}
	}
	return nil
}
