//go:build !windows

package cache

import "golang.org/x/sys/unix"

// freeSpace returns how many bytes an unprivileged writer could still use on the filesystem of dir:
// blocks that only root may fill are of no use to a build (design section 7).
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert,gosec // the types differ between systems
}
