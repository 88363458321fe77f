package e2e

import (
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// plain is a Dockerfile of one stage.
var plain = dockerfile(
	`FROM base`,
	`RUN ["box", "write", "/made/one", "1"]`,
	`COPY a.txt /copied/`,
	`COPY --link b /linked/`,
	`RUN ["box", "append", "/made/one", "2"]`,
)

// TestCacheDirectory exports the cache to a directory, forgets everything, and builds from what was exported, on both sides. Whether
// it was this side or the other that exported it makes no difference.
// spec RMT-1, RMT-3
func TestCacheDirectory(t *testing.T) {
	both(t, func(t *testing.T, h *host) (images []digest.Digest) {
		exported := filepath.Join(h.cfg.Dir, "exported")
		b := Build{Dockerfile: tool, Context: contextDir(t, toolFiles())}
		b.Args = []string{"--export-cache=type=local,mode=max,dest=" + exported}
		first := h.image(b)
		b.Args = []string{"--import-cache=type=local,src=" + exported}
		for range 2 {
			require.NoError(t, pruneAll(h))
			r := h.image(b)
			require.Empty(t, r.Ran())
			require.Equal(t, first.Digest, r.Digest)
			h.restart(h.Side.Other())
		}
		return append(images, first.Digest)
	})
}

// TestCacheRegistry does the same with a registry, where the cache is a part of the image or an image of its own.
// spec RMT-1, RMT-3, MGR-21
func TestCacheRegistry(t *testing.T) {
	reg, addr := newRegistry(t)
	both(t, func(t *testing.T, h *host) (images []digest.Digest) {
		repo := string(h.Side) + h.cfg.Snapshotter
		name := addr + "/" + repo
		for _, kind := range []struct{ to, from string }{
			{"type=inline", "type=registry,ref=" + name + ":image"},
			{"type=registry,mode=max,ref=" + name + ":cache", "type=registry,ref=" + name + ":cache"},
		} {
			b := Build{Dockerfile: plain, Context: contextDir(t, toolFiles()), Output: "type=image,push=true,name=" + name + ":image"}
			b.Args = []string{"--export-cache=" + kind.to}
			first := h.build(b.Reproducible())
			b.Output, b.Args = "", []string{"--import-cache=" + kind.from}
			for range 2 {
				require.NoError(t, pruneAll(h))
				reg.fetched(repo)
				r := h.build(b)
				require.Empty(t, r.Ran(), kind.to)
				more := b
				more.Dockerfile += dockerfile(`RUN ["box", "expect", "/made/one", "12\n"]`)
				r = h.build(more)
				require.Len(t, r.Ran(), 1)
				require.NotZero(t, reg.fetched(repo))
				h.restart(h.Side.Other())
			}
			images = append(images, first.Digest)
		}
		return images[1:] // a cache inside of an image tells when its layers were made
	}, addr)
}

// TestLazyImage builds on an image of a registry. Its layers are fetched when a step needs them, and not before; also if the daemon was
// restarted in between.
// spec RMT-3, scenario S-25, fault 1, fault 3
func TestLazyImage(t *testing.T) {
	reg, addr := newRegistry(t)
	both(t, func(t *testing.T, h *host) (images []digest.Digest) {
		repo := string(h.Side) + h.cfg.Snapshotter
		name := addr + "/" + repo
		pushed := h.build(Build{Dockerfile: plain, Context: contextDir(t, toolFiles()), Output: "type=image,push=true,name=" + name + ":image"}.Reproducible())
		require.NoError(t, pruneAll(h))
		reg.fetched(repo)
		b := Build{Dockerfile: dockerfile(`FROM `+name+`:image`, `COPY --link a.txt /on/top`), Context: contextDir(t, toolFiles())}
		require.Empty(t, h.build(b).Cached())
		require.LessOrEqual(t, reg.fetched(repo), 1, "the configuration is needed, and no layer")
		h.restart(h.Side)
		require.Contains(t, h.build(b).Cached(), `[2/2] COPY --link a.txt /on/top`)
		require.LessOrEqual(t, reg.fetched(repo), 1)
		b.Dockerfile += dockerfile(`RUN ["box", "expect", "/on/top", "a"]`, `RUN ["box", "expect", "/made/one", "12\n"]`)
		require.Subset(t, h.build(b).Ran(), []string{`[3/4] RUN ["box", "expect", "/on/top", "a"]`, `[4/4] RUN ["box", "expect", "/made/one", "12\n"]`})
		require.GreaterOrEqual(t, reg.fetched(repo), 5)
		last := h.image(b)
		require.Len(t, last.Cached(), 4, "all but FROM")
		return append(images, pushed.Digest, last.Digest)
	}, addr)
}
