package local

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/pkg/errors"
)

// backend is the snapshotter below containerd's metadata, not yet opened.
type backend struct {
	name, reason string
	// quick tells whether its writes may share transactions.
	quick bool
	// numbered tells that it is one of containerd's, whose directories are numbered by their database.
	numbered bool
	open     func(root string) (snapshots.Snapshotter, error)
}

// match checks the snapshotter asked for against those the directory knows and returns the name
// of the one to use, "" if the choice is free.
func match(found survey, opts Options) (string, error) {
	have := found.snapshotters
	switch {
	case opts.Snapshotter == Overlayfs && opts.NewSnapshotter == nil && !canMount():
		// Said here, before anything is written; what else keeps it from working takes a trial.
		return "", errors.Wrapf(ErrSnapshotter, "%s needs the capability to mount", Overlayfs)
	case len(have) == 0 || slices.Contains(have, opts.Snapshotter):
		return opts.Snapshotter, nil
	case opts.Snapshotter != "":
		return "", errors.Wrapf(ErrSnapshotter, "%q was asked for, but the directory was made with %s",
			opts.Snapshotter, strings.Join(have, " and "))
	case len(have) > 1:
		return "", errors.Wrapf(ErrSnapshotter, "the directory has snapshots of %s, one must be chosen",
			strings.Join(have, " and "))
	case have[0] != Overlayfs && have[0] != Native:
		return "", errors.Wrapf(ErrSnapshotter, "the directory was made with %q, option NewSnapshotter is needed to make it", have[0])
	}
	return have[0], nil
}

// choose decides which snapshotter dir is opened with. name is what match returned.
func choose(dir, name string, found survey, opts Options) (backend, error) {
	made := len(found.snapshotters) > 0
	reason := "asked for"
	if opts.Snapshotter == "" {
		reason = "the directory was made with it"
	}
	switch {
	case opts.NewSnapshotter != nil:
		return backend{name: name, reason: "made by the caller", quick: opts.QuickSnapshots, open: opts.NewSnapshotter}, nil
	case name == Native:
		return backend{name: Native, reason: reason, numbered: true, open: native.NewSnapshotter}, nil
	case name == Overlayfs && made:
		// The filesystem has proved itself when the directory was made; privileges may differ.
		if !canMount() {
			return backend{}, errors.Wrapf(ErrSnapshotter, "%s needs the capability to mount", Overlayfs)
		}
		return overlayfsBackend(reason), nil
	}
	err := probeOverlayfs(dir)
	switch {
	case err == nil && name == Overlayfs:
		return overlayfsBackend(reason), nil
	case err == nil:
		return overlayfsBackend("a trial mount worked"), nil
	case name == Overlayfs:
		return backend{}, &causedError{kind: ErrSnapshotter, cause: errors.Wrapf(err, "%s does not work in %s", Overlayfs, dir)}
	}
	return backend{name: Native, reason: fmt.Sprintf("%s does not work here: %v", Overlayfs, err), numbered: true, open: native.NewSnapshotter}, nil
}
