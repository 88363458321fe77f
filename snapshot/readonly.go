package snapshot

import (
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/layercache/cache/internal/overlaymounts"
)

// ReadOnly returns m with mounts that cannot write (see [ReadOnlyMounts]). Both count as one: releasing a
// mount of the result releases one of m.
func ReadOnly(m Mountable) Mountable {
	if _, ok := m.(*readOnlyMountable); ok {
		return m
	}
	return &readOnlyMountable{Mountable: m}
}

type readOnlyMountable struct{ Mountable }

func (m *readOnlyMountable) Mount() ([]mount.Mount, func() error, error) {
	mounts, release, err := m.Mountable.Mount()
	if err != nil {
		return nil, nil, err
	}
	return ReadOnlyMounts(mounts), release, nil
}

// ReadOnlyMounts returns a copy of mounts that cannot write; the argument is not changed.
//
// An overlay loses its upper and work directory, and the upper directory becomes the topmost lower one:
// no "ro" is added, since differs tell a layer's directory from these options. Every other mount loses "rw"
// and gets "ro" once.
func ReadOnlyMounts(mounts []mount.Mount) []mount.Mount {
	out := slices.Clone(mounts)
	for i, m := range out {
		if m.Type == overlayType {
			out[i].Options = readOnlyOverlay(m.Options)
			continue
		}
		options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "rw" || o == "ro" })
		out[i].Options = append(options, "ro")
	}
	return out
}

func readOnlyOverlay(options []string) []string {
	const upperKey, workKey, lowerKey = "upperdir=", "workdir=", "lowerdir="
	split := overlaymounts.SplitOptions(options)
	upper := ""
	kept := slices.DeleteFunc(split, func(o string) bool {
		if dir, ok := strings.CutPrefix(o, upperKey); ok {
			upper = dir
			return true
		}
		return strings.HasPrefix(o, workKey)
	})
	if upper == "" {
		return slices.Clone(options) // nothing can be written as it is
	}
	upper = escapeColons(upper)
	for i, o := range kept {
		if lower, ok := strings.CutPrefix(o, lowerKey); ok {
			kept[i] = lowerKey + upper + ":" + lower
			return kept
		}
	}
	return append(kept, lowerKey+upper)
}

// escapeColons makes an upper directory usable among lower ones, where a colon separates directories. One
// that is escaped already stays.
func escapeColons(dir string) string {
	if !strings.Contains(dir, ":") {
		return dir
	}
	var b strings.Builder
	for i := 0; i < len(dir); i++ {
		switch dir[i] {
		case '\\':
			b.WriteByte(dir[i])
			if i++; i == len(dir) {
				return b.String()
			}
		case ':':
			b.WriteByte('\\')
		}
		b.WriteByte(dir[i])
	}
	return b.String()
}
