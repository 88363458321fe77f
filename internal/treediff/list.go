//go:build linux

package treediff

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// dirent is an entry of a directory.
type dirent struct {
	name string
	// typ is the file type as in a mode (S_IFREG and so on).
	typ uint32
	// layer is the place in the stack of the directory that has it.
	layer int32
}

// direntBuffers are what directories are read into; large, so that most take two system calls.
var direntBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// list appends the entries of the directory. It moves the position of the descriptor, so one call at a time.
func (l *layer) list(out []dirent, index int) ([]dirent, error) {
	if _, err := unix.Seek(l.fd, 0, unix.SEEK_SET); err != nil {
		return nil, errors.Wrap(err, "reading a directory")
	}
	buf, _ := direntBuffers.Get().(*[64 << 10]byte)
	defer direntBuffers.Put(buf)
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(l.fd, buf[:]) })
		if err != nil {
			return nil, errors.Wrap(err, "reading a directory")
		}
		if n == 0 {
			return out, nil
		}
		if out, err = l.parse(buf[:n], out, index); err != nil {
			return nil, err
		}
	}
}

// parse reads what getdents64(2) returned: inode and offset (8 bytes each), length of the entry (2), type (1), name.
func (l *layer) parse(buf []byte, out []dirent, index int) ([]dirent, error) {
	const reclenAt, typeAt, nameAt = 16, 18, 19
	for len(buf) > nameAt {
		reclen := int(binary.NativeEndian.Uint16(buf[reclenAt:]))
		if reclen <= nameAt || reclen > len(buf) {
			return nil, errors.New("the kernel returned a malformed directory entry")
		}
		raw := buf[nameAt:reclen]
		if end := bytes.IndexByte(raw, 0); end >= 0 {
			raw = raw[:end]
		}
		typ := uint32(buf[typeAt]) << 12 // DT_x is S_IFx, shifted
		buf = buf[reclen:]
		if name := string(raw); name != "." && name != ".." {
			if typ == 0 { // the filesystem does not say
				st, err := statAt(l.fd, name)
				if err != nil {
					return nil, err
				}
				typ = st.Mode & unix.S_IFMT
			}
			out = append(out, dirent{name: name, typ: typ, layer: int32(index)}) //nolint:gosec // a stack has at most some thousand
		}
	}
	return out, nil
}

// listAll lists a stack in the order of names, and among equal names from the top down.
func listAll(layers []*layer) ([]dirent, error) {
	var out []dirent
	for i, l := range layers {
		var err error
		if out, err = l.list(out, i); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b dirent) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return int(a.layer - b.layer)
	})
	return out, nil
}

// statAt describes the file name in the directory dirfd.
func statAt(dirfd int, name string) (*unix.Stat_t, error) {
	st := new(unix.Stat_t)
	if err := unix.Fstatat(dirfd, name, st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, errors.Wrapf(err, "looking at %q", name)
	}
	return st, nil
}
