package snapshot

import (
	"strings"
	"time"

	"github.com/Microsoft/go-winio/pkg/bindfilter"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"golang.org/x/sys/windows"
)

// mountRetries and retryPause are for a layer whose files another process (a virus scanner for instance)
// still has open: Windows refuses to mount it and gives no event to wait for.
const (
	mountRetries = 2
	retryPause   = 30 * time.Millisecond
)

func isBind(m mount.Mount) bool { return m.Type == "bind" || m.Type == "rbind" }

// mayMount leaves the decision to the attempt: there is no privilege that could be asked for.
func mayMount() error { return nil }

// platformMounts: Windows mounts one thing at one place; the parents of a layer travel in its options.
func platformMounts(mounts []mount.Mount) ([]mount.Mount, error) {
	if len(mounts) != 1 {
		return nil, errors.Wrapf(errdefs.ErrNotImplemented, "Windows can mount exactly one thing, not %d", len(mounts))
	}
	return mounts, nil
}

func mountTemp(mounts []mount.Mount, bind bool) (string, func() error, error) {
	dir, remove, err := tempDir()
	if err != nil {
		return "", nil, err
	}
	m := mounts[0]
	unmount := func() error { return mount.Unmount(dir, 0) }
	if bind {
		unmount = func() error { return removeBinding(dir) }
		// The layer snapshotter knows no bind mounts; the bind filter driver does the same.
		err = bindfilter.ApplyFileBinding(dir, m.Source, m.ReadOnly())
	} else {
		err = mountRetrying(m, dir)
	}
	if err != nil {
		_ = remove() // the error that counts is the first
		return "", nil, errors.WithStack(err)
	}
	return dir, func() error {
		if err := unmount(); err != nil {
			return errors.Wrapf(err, "unmounting %s", dir)
		}
		return remove()
	}, nil
}

func mountRetrying(m mount.Mount, dir string) error {
	for retry := 1; ; retry++ {
		err := m.Mount(dir)
		if err == nil || retry > mountRetries || !inUse(err) {
			return err
		}
		time.Sleep(time.Duration(retry) * retryPause)
	}
}

// inUse also reads the text, as the errors of the layer functions do not unwrap to their cause.
func inUse(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) ||
		strings.Contains(err.Error(), windows.ERROR_SHARING_VIOLATION.Error())
}

// removeBinding takes success to be that dir is no binding afterwards.
func removeBinding(dir string) error {
	err := bindfilter.RemoveFileBinding(dir)
	if errors.Is(err, windows.ERROR_INVALID_PARAMETER) || errors.Is(err, windows.ERROR_NOT_FOUND) {
		return nil
	}
	return err
}
