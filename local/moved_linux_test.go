package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/tree"
)

// commandsOf returns the commands of docs/operations.md that copy or move a directory, each with the one that goes on with it.
func commandsOf(t *testing.T) (cmds []string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "docs", "operations.md"))
	require.NoError(t, err)
	for _, line := range strings.Split(string(page), "\n") {
		cmd, ok := strings.CutPrefix(line, "    ")
		cmd, _, _ = strings.Cut(cmd, "#")
		switch cmd = strings.TrimSpace(cmd); {
		case !ok || !strings.Contains(cmd, "OLD") && !strings.Contains(cmd, "NEW") || strings.HasPrefix(cmd, "layercache"):
		case strings.Contains(cmd, "tar -C NEW"):
			cmds[len(cmds)-1] += " && mkdir -m 700 NEW && " + cmd
		default:
			cmds = append(cmds, cmd)
		}
	}
	require.Len(t, cmds, 3, "mv, cp and tar")
	return cmds
}

// mounted calls fn with the directory of a mounted ref.
func mounted(t *testing.T, ref cache.Mountable, readonly bool, fn func(dir string)) {
	t.Helper()
	m, err := ref.Mount(t.Context(), readonly, nil)
	require.NoError(t, err)
	mounter := snapshot.LocalMounter(m)
	dir, err := mounter.Mount()
	require.NoError(t, err)
	fn(dir)
	require.NoError(t, mounter.Unmount())
}

// TestMovedDirectory: a closed directory that was moved or copied as docs/operations.md says it is to be opens at its new place, agrees with itself, and has
// the same trees, with what its layers delete.
func TestMovedDirectory(t *testing.T) {
	cmds := commandsOf(t)
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		ctx := t.Context()
		work := t.TempDir()
		at := filepath.Join(work, "first")
		c := openCache(t, at, opts)
		layer := func(parent cache.ImmutableRef, fill func(dir string)) cache.ImmutableRef {
			mut, err := c.New(ctx, parent, nil)
			require.NoError(t, err)
			mounted(t, mut, false, fill)
			imm, err := mut.Commit(ctx)
			require.NoError(t, err)
			require.NoError(t, imm.Finalize(ctx))
			return imm
		}
		base := layer(nil, func(dir string) {
			require.NoError(t, tree.Write(dir, tree.Dir("d"), tree.File("d/gone", "x"), tree.File("d/stays", "y"), tree.Dir("opaque"), tree.File("opaque/gone", "z")))
		})
		top := layer(base, func(dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "d", "gone")))
			require.NoError(t, os.RemoveAll(filepath.Join(dir, "opaque")))
			require.NoError(t, tree.Write(dir, tree.Dir("opaque"), tree.File("opaque/new", "n"), tree.Symlink("link", "d/stays")))
		})
		other := layer(nil, func(dir string) { require.NoError(t, tree.Write(dir, tree.File("other", "o"))) })
		merge, err := c.Merge(ctx, []cache.ImmutableRef{top, other}, nil)
		require.NoError(t, err)
		require.NoError(t, merge.Extract(ctx, nil))
		ids := []string{base.ID(), top.ID(), other.ID(), merge.ID()}
		want := map[string]tree.Tree{}
		for i, ref := range []cache.ImmutableRef{base, top, other, merge} {
			mounted(t, ref, true, func(dir string) {
				want[ids[i]], err = tree.Read(dir)
				require.NoError(t, err)
			})
			require.NoError(t, ref.Release(ctx))
		}
		require.NoError(t, c.Close())

		for i, cmd := range cmds {
			next := filepath.Join(work, "place "+string(rune('a'+i)))
			sh := exec.CommandContext(ctx, "sh", "-ec", strings.NewReplacer("OLD", `"$old"`, "NEW", `"$new"`).Replace(cmd))
			sh.Dir, sh.Env = work, append(os.Environ(), "old="+at, "new="+next)
			out, err := sh.CombinedOutput()
			require.NoError(t, err, "%s: %s", cmd, out)
			require.NoError(t, os.RemoveAll(at), "nothing may lead back")
			at = next
			look, err := Inspect(ctx, at, InspectOptions{})
			require.NoError(t, err, cmd)
			found, err := look.Check(ctx)
			require.NoError(t, err)
			require.Empty(t, found, cmd)
			require.Empty(t, look.Repaired, cmd)
			require.NoError(t, look.Close())
			c = openCache(t, at, Options{})
			for _, id := range ids {
				ref, err := c.Get(ctx, id, nil)
				require.NoError(t, err, cmd)
				mounted(t, ref, true, func(dir string) {
					got, err := tree.Read(dir)
					require.NoError(t, err)
					require.Empty(t, tree.Diff(want[id], got), cmd)
				})
				require.NoError(t, ref.Release(ctx))
			}
			require.NoError(t, c.Close())
		}
	})
}
