package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/subset"
)

// TestExchange has one side go on in the state directory of the other, and the first after it: builds are found in the cache by
// either, new ones are made on top of them, cache mounts are carried on, and prune works.
// spec INIT-1, fault 34
func TestExchange(t *testing.T) {
	for _, snapshotter := range snapshotters() {
		for _, s := range Sides() {
			t.Run(snapshotter+"/made by "+string(s), func(t *testing.T) {
				subset.Skip(t)
				exchange(t, s, snapshotter)
			})
		}
	}
}

func exchange(t *testing.T, s Side, snapshotter string) {
	t.Parallel()
	h := newHost(t, s, snapshotter)
	files := toolFiles()
	b := Build{Dockerfile: tool, Context: contextDir(t, files)}
	first := h.image(b)
	require.Empty(t, first.Cached())
	made := describe(h.usage())
	total := Sum(h.usage())

	h.restart(s.Other())
	require.Equal(t, made, describe(h.usage()))
	t.Logf("bytes: %d by %s, %d by %s", total, s, Sum(h.usage()), s.Other())
	h.again(b, first)
	more := b
	more.Dockerfile += dockerfile(`FROM three`, `RUN ["/bin/box", "write", "/by/other", "here"]`, `COPY --link --from=two /work /by/linked`)
	second := h.image(more)
	require.Len(t, second.Ran(), 3, "two steps, and the second linked")
	files["a.txt"] = "another"
	changed := b
	changed.Context = contextDir(t, files)
	third := h.image(changed)
	require.Equal(t, "2\n", third.Log(counting))
	gone, left := h.prune("--filter", "type==exec.cachemount")
	require.Len(t, gone, 1)
	require.NotEmpty(t, left)

	h.restart(s)
	require.Equal(t, left, describe(h.usage()))
	h.again(more, second)
	h.again(changed, third)
	h.again(b, first)
	files["a.txt"] = "a third"
	changed.Context = contextDir(t, files)
	require.Equal(t, "1\n", h.image(changed).Log(counting), "that cache mount was pruned")
	require.NoError(t, pruneAll(h))
	h.stop()
}
