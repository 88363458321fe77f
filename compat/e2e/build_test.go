package e2e

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// tool is a Dockerfile with a bit of everything: layers on an image and on nothing, files from the context and from other stages, linked
// and not, and mounts of all kinds.
var tool = dockerfile(
	`FROM base AS one`,
	`RUN ["box", "write", "/made/one", "1"]`,
	`COPY a.txt /copied/`,
	`COPY --link b /linked/`,
	`RUN --mount=type=cache,target=/cache ["box", "count", "/cache/n", "/made/count"]`,
	`RUN ["box", "remove", "/etc/kept"]`,
	`FROM base AS two`,
	`RUN ["box", "absent", "/etc/gone"]`,
	`COPY --from=one /made /work/made`,
	`COPY --link --from=one /linked /work/linked`,
	`RUN ["box", "expect", "/work/linked/c/d.txt", "d"]`,
	`RUN --mount=type=bind,from=one,target=/one ["box", "absent", "/one/etc/kept"]`,
	`RUN --mount=type=tmpfs,target=/tmpfs ["box", "write", "/tmpfs/x", "y"]`,
	`FROM scratch AS three`,
	`COPY --from=two /work /work`,
	`COPY --link --from=one /bin/box /bin/box`,
	`COPY --link a.txt /a.txt`,
	`RUN ["/bin/box", "symlink", "a.txt", "/b.txt"]`,
	`RUN ["/bin/box", "absent", "/tmpfs/x"]`,
)

// counting is a part of the name of the step that counts in a cache mount.
const counting = `"count"`

func toolFiles() map[string]string {
	return map[string]string{"a.txt": "a", "b/c/d.txt": "d", "b/e.txt": "e"}
}

// TestBuild builds images with a bit of everything: the first time, again, with a file changed, and without the cache. Both
// sides run the same steps each time and make the same images.
// fault 34
func TestBuild(t *testing.T) {
	type made struct {
		Images []digest.Digest
		// Ran are the steps that ran when a file had changed.
		Ran []string
	}
	both(t, func(t *testing.T, h *host) (m made) {
		files := toolFiles()
		b := Build{Dockerfile: tool, Context: contextDir(t, files)}
		first := h.image(b)
		require.Empty(t, first.Cached())
		require.Equal(t, "1\n", first.Log(counting))
		h.again(b, first)

		b.Args = []string{"--opt=target=one"}
		one := h.image(b)
		require.Empty(t, one.Ran())
		b.Args = nil

		files["a.txt"] = "another"
		b.Context = contextDir(t, files)
		changed := h.image(b)
		require.NotEqual(t, first.Digest, changed.Digest)
		require.Equal(t, "2\n", changed.Log(counting))
		require.Contains(t, changed.Cached(), `[three 2/5] COPY --link --from=one /bin/box /bin/box`)
		require.Contains(t, changed.Ran(), `[one 2/6] COPY a.txt /copied/`)
		h.again(b, changed)

		b.NoCache = true
		anew := h.image(b)
		require.Empty(t, anew.Cached())
		require.Equal(t, "1\n", anew.Log(counting), "without the cache, a cache mount is empty, too")
		require.NotEqual(t, changed.Digest, anew.Digest)
		b.NoCache = false
		h.again(b, anew)
		return made{[]digest.Digest{first.Digest, one.Digest, changed.Digest, anew.Digest}, changed.Ran()}
	})
}

// TestParallel has eight builds at a time that begin with the same steps, and then all of them again.
// fault 22
func TestParallel(t *testing.T) {
	both(t, func(t *testing.T, h *host) []digest.Digest {
		builds := manyBuilds(t)
		first := h.together(builds)
		second := h.together(builds)
		images := map[digest.Digest]bool{}
		for i, r := range second {
			require.Empty(t, r.Ran())
			require.Equal(t, first[i].Digest, r.Digest)
			images[r.Digest] = true
		}
		require.Len(t, images, len(builds))
		require.NoError(t, pruneAll(h))
		return slices.Sorted(maps.Keys(images))
	})
}

// together runs builds at the same time.
func (h *host) together(builds []Build) []*Result {
	h.t.Helper()
	image, err := base()
	require.NoError(h.t, err)
	results := make([]*Result, len(builds))
	var g errgroup.Group
	for i, b := range builds {
		b.Base = image
		b.Output = fmt.Sprintf("type=oci,dest=%s", filepath.Join(h.cfg.Dir, fmt.Sprintf("image%d.tar", i)))
		g.Go(func() (err error) {
			results[i], err = h.Build(h.t.Context(), b.Reproducible())
			return err
		})
	}
	require.NoError(h.t, g.Wait())
	return results
}
