package overlaymounts

import (
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/treediff"
)

// TestLayers: the directories of an overlay, and which options say nothing about them (spec OVL-2).
func TestLayers(t *testing.T) {
	for name, test := range map[string]struct {
		options []string
		dirs    []string
		upper   bool
		unknown bool
		marks   treediff.Marks
	}{
		"view":       {options: []string{"lowerdir=/b:/a"}, dirs: []string{"/b", "/a"}, marks: treediff.Trusted},
		"active":     {options: []string{"index=off", "workdir=/w", "upperdir=/c", "lowerdir=/b:/a"}, dirs: []string{"/c", "/b", "/a"}, upper: true, marks: treediff.Trusted},
		"userxattr":  {options: []string{"userxattr", "redirect_dir=off", "lowerdir=/b:/a"}, dirs: []string{"/b", "/a"}, marks: treediff.User},
		"one string": {options: []string{"upperdir=/c,lowerdir=/b:/a,index=off"}, dirs: []string{"/c", "/b", "/a"}, upper: true, marks: treediff.Trusted},
		"escaped":    {options: []string{`lowerdir=/b\:1:/a\\2:/c`, `upperdir=/u\,v`}, dirs: []string{"/u,v", "/b:1", `/a\2`, "/c"}, upper: true, marks: treediff.Trusted},
		"index on":   {options: []string{"index=on", "lowerdir=/b:/a"}, dirs: []string{"/b", "/a"}, unknown: true, marks: treediff.Trusted},
		"metacopy":   {options: []string{"metacopy=on", "lowerdir=/b:/a"}, dirs: []string{"/b", "/a"}, unknown: true, marks: treediff.Trusted},
		"data only":  {options: []string{"lowerdir=/b::/a"}, dirs: []string{"/b", "", "/a"}, unknown: true, marks: treediff.Trusted},
		"nothing":    {options: []string{"index=off"}, unknown: true, marks: treediff.Trusted},
	} {
		t.Run(name, func(t *testing.T) {
			l, upper, known := Layers(mount.Mount{Type: "overlay", Options: test.options})
			require.Equal(t, test.dirs, l.Dirs)
			require.Equal(t, test.upper, upper)
			require.Equal(t, !test.unknown, known)
			require.Equal(t, test.marks, l.Marks)
		})
	}
}
