package e2e

import (
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// TestRestart stops the daemon and starts it on the same directory: the cache is as it was, that of a cache mount included.
// spec INIT-1, scenario S-3
func TestRestart(t *testing.T) {
	both(t, func(t *testing.T, h *host) (images []digest.Digest) {
		files := toolFiles()
		b := Build{Dockerfile: tool, Context: contextDir(t, files)}
		first := h.image(b)
		before := h.usage()
		h.restart(h.Side)
		require.Equal(t, describe(before), describe(h.usage()))
		h.again(b, first)
		h.restart(h.Side)
		files["a.txt"] = "another"
		b.Context = contextDir(t, files)
		changed := h.image(b)
		require.Equal(t, "2\n", changed.Log(counting))
		return append(images, first.Digest, changed.Digest)
	})
}

// hanging is a Dockerfile whose third step does not end.
var hanging = dockerfile(
	`FROM base`,
	`RUN ["box", "write", "/first", "1"]`,
	`COPY --link a.txt /second`,
	`RUN ["box", "hang", "here I am"]`,
)

// TestKillInStep kills the daemon while a step runs. A new one on the directory finds the steps before it in the cache, builds on, and
// prunes everything.
// spec INIT-11, fault 29, fault 32
func TestKillInStep(t *testing.T) {
	both(t, func(t *testing.T, h *host) (images []digest.Digest) {
		b := Build{Dockerfile: hanging, Context: contextDir(t, toolFiles())}
		image, err := base()
		require.NoError(t, err)
		b.Base = image
		var once sync.Once
		b.Watch = func(s *client.SolveStatus) {
			for _, l := range s.Logs {
				if strings.Contains(string(l.Data), "here I am") {
					once.Do(h.kill)
				}
			}
		}
		_, err = h.Build(t.Context(), b)
		require.Error(t, err)
		require.False(t, h.Running())
		h.start(h.Side)
		b.Watch = nil
		b.Dockerfile = strings.Replace(b.Dockerfile, `"hang", "here I am"`, `"expect", "/second", "a"`, 1)
		r := h.image(b)
		require.Len(t, r.Ran(), 1)
		h.again(b, r)
		require.NoError(t, pruneAll(h))
		return append(images, r.Digest)
	})
}

// TestKillBetweenSteps kills the daemon after more and more steps of one build, at no particular moment of the next: each new
// one goes on from what is there, and the image in the end is that of a build that nobody disturbed.
// spec INIT-11, fault 29, fault 32
func TestKillBetweenSteps(t *testing.T) {
	both(t, func(t *testing.T, h *host) (images []digest.Digest) {
		image, err := base()
		require.NoError(t, err)
		b := Build{Dockerfile: LongDockerfile(12, "x"), Context: contextDir(t, toolFiles()), Base: image}
		for _, n := range []int{2, 5, 8, 11} {
			done := map[digest.Digest]bool{}
			b.Watch = func(s *client.SolveStatus) {
				for _, v := range s.Vertexes {
					if stepName.MatchString(v.Name) && v.Completed != nil {
						done[v.Digest] = true
					}
				}
				if len(done) >= n && h.Running() {
					h.kill()
				}
			}
			_, err := h.Build(t.Context(), b)
			require.Error(t, err)
			require.False(t, h.Running(), "%v", err)
			h.start(h.Side)
		}
		b.Watch = nil
		r := h.image(b)
		t.Logf("found after all: %d of %d steps", len(r.Cached()), len(r.Steps))
		h.again(b, r)
		require.NoError(t, pruneAll(h))
		return append(images, r.Digest)
	})
}

// pruneAll prunes everything, after which nothing is left.
func pruneAll(h *host) error {
	if _, err := h.Prune(h.t.Context(), "--all"); err != nil {
		return err
	}
	left, err := h.Usage(h.t.Context())
	require.Empty(h.t, describe(left))
	return err
}
