package e2e

import (
	"bufio"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// manyBuilds are eight builds that begin with the same steps.
func manyBuilds(t *testing.T) (builds []Build) {
	files := contextDir(t, toolFiles())
	for i := range 8 {
		file := plain + dockerfile(fmt.Sprintf(`RUN ["box", "write", "/own", "%d"]`, i), `COPY --link b /last/`)
		builds = append(builds, Build{Dockerfile: file, Context: files})
	}
	return builds
}

// digests are those of some builds.
func digests(results []*Result) (images []digest.Digest) {
	for _, r := range results {
		images = append(images, r.Digest)
	}
	return images
}

// TestKillAmid kills the daemon amid of eight builds, of an export, and of a prune. Afterwards the same builds give the same images.
// spec INIT-11, PRN-15, fault 22, fault 29
func TestKillAmid(t *testing.T) {
	both(t, func(t *testing.T, h *host) []digest.Digest {
		builds := manyBuilds(t)
		images := digests(h.together(builds))
		require.NoError(t, pruneAll(h))
		h.build(Build{Dockerfile: dockerfile(`FROM base`, `RUN ["box", "absent", "/etc/gone"]`)}) // pulls the image

		for _, n := range []int{3, 12, 24} {
			killAmidBuilds(h, builds, n)
			h.start(h.Side)
		}
		require.Equal(t, images, digests(h.together(builds)))

		killAmidExport(h, builds[0])
		h.start(h.Side)
		require.Equal(t, images, digests(h.together(builds)))

		killAmidPrune(h)
		h.start(h.Side)
		require.Equal(t, images, digests(h.together(builds)))
		require.NoError(t, pruneAll(h))
		return images
	})
}

// killAmidBuilds runs builds at the same time, until so many of their steps are done.
func killAmidBuilds(h *host, builds []Build, n int) {
	h.t.Helper()
	image, err := base()
	require.NoError(h.t, err)
	var mu sync.Mutex
	var kill sync.Once
	done := map[string]bool{}
	reached := make(chan struct{})
	var wg sync.WaitGroup
	for i, b := range builds {
		b.Base = image
		b.Watch = func(s *client.SolveStatus) {
			mu.Lock()
			defer mu.Unlock()
			for _, v := range s.Vertexes {
				if stepName.MatchString(v.Name) && v.Completed != nil {
					done[fmt.Sprint(i, v.Digest)] = true
				}
			}
			if len(done) >= n {
				kill.Do(func() { close(reached) })
			}
		}
		wg.Go(func() { _, _ = h.Build(h.t.Context(), b) }) // most of them fail, as they must
	}
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-reached:
	case <-ended:
		require.Fail(h.t, "the builds were over before that")
	}
	h.kill()
	<-ended
}

// killAmidExport exports an image until the export begins.
func killAmidExport(h *host, b Build) {
	h.t.Helper()
	image, err := base()
	require.NoError(h.t, err)
	b.Base = image
	b.Dockerfile += dockerfile(`RUN ["box", "fill", "/file", "30000000", "seed"]`)
	b.Output = "type=oci,dest=" + filepath.Join(h.cfg.Dir, "image.tar")
	var once sync.Once
	b.Watch = func(s *client.SolveStatus) {
		for _, v := range s.Vertexes {
			if strings.HasPrefix(v.Name, "exporting to") && v.Started != nil {
				once.Do(h.kill)
			}
		}
	}
	_, err = h.Build(h.t.Context(), b)
	require.Error(h.t, err)
	require.False(h.t, h.Running(), "%v", err)
}

// killAmidPrune prunes everything until the first record is gone.
func killAmidPrune(h *host) {
	h.t.Helper()
	cmd := h.Buildctl(h.t.Context(), "prune", "--all")
	out, err := cmd.StdoutPipe()
	require.NoError(h.t, err)
	require.NoError(h.t, cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	require.NoError(h.t, err)
	h.kill()
	_ = cmd.Wait() // it has lost the daemon, or not
}
