package tree

import (
	"io/fs"
	"path/filepath"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Occupied returns how many inodes the tree below dir has to itself, and how many bytes they take up on disk. Files that have
// names elsewhere are left out.
func Occupied(dir string) (inodes, size int64, err error) {
	names, stats := map[uint64]uint64{}, map[uint64]unix.Stat_t{}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		names[st.Ino]++
		stats[st.Ino] = st
		return errors.Wrapf(err, "looking at %s", path)
	})
	if err != nil {
		return 0, 0, err
	}
	for ino, st := range stats {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR || uint64(st.Nlink) == names[ino] { //nolint:unconvert // its type differs
			inodes++
			size += st.Blocks * 512
		}
	}
	return inodes, size, nil
}
