package compat

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// TestInspectStateDirectory looks at the directory of a BuildKit that was killed, which changes nothing in it, and tells what
// opening it tells afterwards. issue 7, fault 34
func TestInspectStateDirectory(t *testing.T) {
	for _, snapshotter := range []string{snNative, snOverlayfs} {
		t.Run(snapshotter, func(t *testing.T) {
			if snapshotter == snOverlayfs {
				need.Overlay(t)
			}
			s := makeStock(t, filepath.Join(t.TempDir(), "runc-"+snapshotter), snapshotter, os.Geteuid() == 0)
			var seen []*usage.Info
			changed, err := tree.Changed(s.dir, func() {
				i, err := local.Inspect(t.Context(), s.dir, local.InspectOptions{TempDir: t.TempDir()})
				require.NoError(t, err)
				defer func() { require.NoError(t, i.Close()) }()
				require.Equal(t, snapshotter, i.SnapshotterName)
				require.Nil(t, i.Salvaged)
				repaired := map[string]bool{}
				for _, ev := range i.Repaired {
					repaired[ev.ID] = true
				}
				for id := range s.ids(goneByRule) {
					require.True(t, repaired[id], id)
				}
				seen, err = i.DiskUsage(t.Context(), usage.DiskUsageInfo{})
				require.NoError(t, err)
				for _, info := range seen {
					rec, err := i.Record(t.Context(), info.ID)
					require.NoError(t, err)
					require.Equal(t, *info, rec.Info)
				}
				findings, err := i.Check(t.Context())
				require.NoError(t, err)
				require.Empty(t, findings)
				_, err = i.Overhead(t.Context())
				require.NoError(t, err)
			})
			require.NoError(t, err)
			require.Empty(t, changed)

			o := s.openOwn(t)
			opened, err := o.DiskUsage(t.Context(), usage.DiskUsageInfo{})
			require.NoError(t, err)
			require.NotEmpty(t, opened)
			require.ElementsMatch(t, opened, seen)
			require.NoError(t, o.close())
		})
	}
}
