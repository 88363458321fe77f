package differ

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/userns"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/overlaymounts"
	"github.com/layercache/cache/internal/treediff"
	"github.com/layercache/cache/snapshot"
)

const overlayType = "overlay"

func isBind(m mount.Mount) bool { return m.Type == "bind" || m.Type == "rbind" }

// upperLayers tells where a layer lies and what is below it (spec OVL-1).
func upperLayers(lower, upper []mount.Mount) (l, u treediff.Layers, err error) {
	none := treediff.Layers{}
	if len(upper) != 1 || len(lower) > 1 {
		return none, none, notOverlay("there are %d lower and %d upper mounts", len(lower), len(upper))
	}
	if len(lower) == 0 {
		u, ok := direct(upper[0])
		if !ok || !isBind(upper[0]) {
			return none, none, notOverlay("without a lower mount, the upper one is of type %q and not a bind mount", upper[0].Type)
		}
		u.Marks = treediff.Trusted // the attributes matter where there is something to hide, the devices are those of all marks
		return none, u, nil
	}
	if upper[0].Type != overlayType {
		return none, none, notOverlay("the upper mount is of type %q", upper[0].Type)
	}
	l, lok := direct(lower[0])
	u, uok := direct(upper[0])
	switch {
	case !lok:
		return none, none, notOverlay("the layers of the lower mount are not known")
	case !uok:
		return none, none, notOverlay("the layers of the upper mount are not known")
	case len(u.Dirs) == 0 || !slices.Equal(u.Dirs[1:], l.Dirs):
		return none, none, notOverlay("the upper mount is not made of the lower one's layers and one more")
	}
	l.Marks = u.Marks
	return l, u, nil
}

func notOverlay(format string, args ...any) error {
	return errors.WithMessage(ErrNotOverlay, fmt.Sprintf(format, args...))
}

// direct tells where a tree lies that can be read without being mounted.
func direct(m mount.Mount) (treediff.Layers, bool) {
	switch {
	case m.Target != "":
		return treediff.Layers{}, false
	case isBind(m):
		return treediff.Layers{Dirs: []string{m.Source}}, !slices.ContainsFunc(m.Options, mapsIDs)
	case m.Type == overlayType:
		l, _, known := overlaymounts.Layers(m)
		return l, known && mayRead(l.Marks)
	}
	return treediff.Layers{}, false
}

// mapsIDs tells whether an option gives the files of a mount other owners than they have.
func mapsIDs(option string) bool {
	return strings.Contains(option, "uidmap") || strings.Contains(option, "gidmap") || strings.Contains(option, "idmap")
}

// mayRead tells whether this process sees the attributes that marks consist of. The kernel shows nobody but root "trusted.".
func mayRead(m treediff.Marks) bool {
	return m != treediff.Trusted || !userns.RunningInUserNS() && snapshot.MayMount() == nil
}

// withTrees calls fn with the places of two trees. Those that cannot be read where they lie are mounted, the lower one first.
func withTrees(ctx context.Context, lower, upper []mount.Mount, fn func(lower, upper treediff.Layers) error) error {
	return withTree(ctx, lower, func(l treediff.Layers) error {
		return withTree(ctx, upper, func(u treediff.Layers) error {
			share(&l, &u)
			share(&u, &l)
			return fn(l, u)
		})
	})
}

// share reads a plain directory as what it is in an overlay that it is a layer of.
func share(plain, overlay *treediff.Layers) {
	if len(plain.Dirs) == 1 && plain.Marks == treediff.Plain && slices.Contains(overlay.Dirs, plain.Dirs[0]) {
		plain.Marks = overlay.Marks
	}
}

func withTree(ctx context.Context, mounts []mount.Mount, fn func(treediff.Layers) error) error {
	switch len(mounts) {
	case 0:
		return fn(treediff.Layers{})
	case 1:
		if l, ok := direct(mounts[0]); ok {
			return fn(l)
		}
	}
	if err := snapshot.MayMount(); err != nil {
		return errors.WithMessage(err, "a tree that has to be mounted")
	}
	adapted, err := snapshot.AdaptMounts(mounts)
	if err != nil {
		return err
	}
	var failed error
	err = mount.WithReadonlyTempMount(ctx, adapted, func(root string) error {
		failed = fn(treediff.Layers{Dirs: []string{root}})
		return failed
	})
	if failed != nil {
		return failed
	}
	return errors.Wrap(err, "mounting a tree")
}
