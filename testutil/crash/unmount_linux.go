package crash

import (
	stderrors "errors"
	"slices"

	"github.com/moby/sys/mountinfo"
	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// unmountBelow unmounts what is mounted below a directory.
func unmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return errors.WithStack(err)
	}
	var errs []error
	for _, m := range slices.Backward(mounts) { // what was mounted last comes last
		errs = append(errs, errors.Wrap(unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW), m.Mountpoint))
	}
	return stderrors.Join(errs...)
}
