package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/subset"
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
	both(t, func(t *testing.T, h *host) []digest.Digest {
		b := killInStep(h)
		h.start(h.Side)
		r := h.image(b)
		require.Len(t, r.Ran(), 1)
		h.again(b, r)
		require.NoError(t, pruneAll(h))
		return []digest.Digest{r.Digest}
	})
}

// TestKillAndExchange kills the daemon of one side while a step runs. The other side finds the steps before it in the cache, and the first what
// that one made of them.
// spec INIT-11, fault 29, fault 34
func TestKillAndExchange(t *testing.T) {
	for _, snapshotter := range snapshotters() {
		for _, s := range Sides() {
			t.Run(snapshotter+"/killed "+string(s), func(t *testing.T) {
				t.Parallel()
				h := newHost(t, s, snapshotter)
				b := killInStep(h)
				if s == Ours { // for stock, as in kill
					require.NoError(t, os.RemoveAll(nextDirectory(t, h.cfg)))
				}
				h.start(s.Other())
				r := h.image(b)
				require.Len(t, r.Ran(), 1)
				h.restart(s)
				h.again(b, r)
				require.NoError(t, pruneAll(h))
				h.stop()
			})
		}
	}
}

// killInStep kills the daemon while the third step of a build runs, and returns a build whose third step ends.
func killInStep(h *host) Build {
	h.t.Helper()
	b := Build{Dockerfile: hanging, Context: contextDir(h.t, toolFiles())}
	image, err := base()
	require.NoError(h.t, err)
	b.Base = image
	var once sync.Once
	b.Watch = func(s *client.SolveStatus) {
		for _, l := range s.Logs {
			if strings.Contains(string(l.Data), "here I am") {
				once.Do(h.kill)
			}
		}
	}
	_, err = h.Build(h.t.Context(), b)
	require.Error(h.t, err)
	require.False(h.t, h.Running())
	left, err := os.ReadDir(filepath.Join(h.cfg.Dir, containersDir))
	require.NoError(h.t, err)
	require.Empty(h.t, left, "containers")
	b.Watch = nil
	b.Dockerfile = strings.Replace(b.Dockerfile, `"hang", "here I am"`, `"expect", "/second", "a"`, 1)
	return b
}

// TestKillBetweenSteps kills the daemon after more and more steps of one build, at no particular moment of the next: each new
// one goes on from what is there, and the image in the end is that of a build that nobody disturbed.
// spec INIT-11, fault 29, fault 32
func TestKillBetweenSteps(t *testing.T) {
	both(t, func(t *testing.T, h *host) (images []digest.Digest) {
		image, err := base()
		require.NoError(t, err)
		h.build(Build{Dockerfile: dockerfile(`FROM base`, `RUN ["box", "absent", "/etc/gone"]`)}) // pulls the image
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

// TestKillInPull is about a layer of which a killed daemon had received a part. Stock cannot go on with it where it comes from an OCI layout,
// and fails until the part is collected: "unsupported offset".
// spec PULL-2, fault 29
func TestKillInPull(t *testing.T) {
	for _, snapshotter := range snapshotters() {
		t.Run(snapshotter, func(t *testing.T) {
			subset.Skip(t)
			t.Parallel()
			h := newHost(t, Ours, snapshotter)
			h.stop()
			leaveParts(t, h.cfg, layersOf(t))
			h.start(Ours)
			b := Build{Dockerfile: plain, Context: contextDir(t, toolFiles())}
			h.again(b, h.image(b))
			require.NoError(t, pruneAll(h))
			h.stop()
		})
	}
}

// layersOf lists the layers of the image that the tests build from.
func layersOf(t *testing.T) []ocispecs.Descriptor {
	t.Helper()
	image, err := base()
	require.NoError(t, err)
	dt, err := os.ReadFile(image.blob(image.Digest))
	require.NoError(t, err)
	var manifest ocispecs.Manifest
	require.NoError(t, json.Unmarshal(dt, &manifest))
	require.NotEmpty(t, manifest.Layers)
	return manifest.Layers
}

// leaveParts leaves the first halves of layers in a worker's directory, as transfers do that end with their daemon: under a temporary lease.
func leaveParts(t *testing.T, c Config, layers []ocispecs.Descriptor) {
	t.Helper()
	image, err := base()
	require.NoError(t, err)
	worker, err := local.Open(t.Context(), c.Worker(), local.Options{Snapshotter: c.Snapshotter, MustExist: true})
	require.NoError(t, err)
	lease, err := worker.Parts.LeaseManager.Create(t.Context(), leases.WithRandomID(), leases.WithLabel("buildkit/lease.temporary", ""))
	require.NoError(t, err)
	ctx := leases.WithLease(t.Context(), lease.ID)
	for _, layer := range layers {
		dt, err := os.ReadFile(image.blob(layer.Digest))
		require.NoError(t, err)
		w, err := content.OpenWriter(ctx, worker.Parts.ContentStore, content.WithRef(remotes.MakeRefKey(ctx, layer)), content.WithDescriptor(layer))
		require.NoError(t, err)
		_, err = w.Write(dt[:len(dt)/2])
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	require.NoError(t, worker.Close())
}

// TestKillInPrepare is about the directory of a snapshot that a killed daemon was making. The next daemon's first snapshot gets the same
// number. On stock its build fails: "file exists".
// spec INIT-11, fault 29
func TestKillInPrepare(t *testing.T) {
	for _, snapshotter := range snapshotters() {
		t.Run(snapshotter, func(t *testing.T) {
			subset.Skip(t)
			t.Parallel()
			h := newHost(t, Ours, snapshotter)
			builds := manyBuilds(t)
			images := digests(h.together(builds))
			for range 2 {
				require.NoError(t, pruneAll(h))
				h.stop()
				leaveDirectory(t, h.cfg)
				h.start(Ours)
				require.Equal(t, images, digests(h.together(builds)))
			}
			h.stop()
		})
	}
}

// leaveDirectory makes the directory that the next snapshot will have.
func leaveDirectory(t *testing.T, c Config) {
	t.Helper()
	dir := nextDirectory(t, c)
	for _, sub := range []string{"fs", "work"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, sub, "junk"), nil, 0o600))
	}
}

// nextDirectory is the directory that the snapshotter of a worker will move the next snapshot to.
func nextDirectory(t *testing.T, c Config) string {
	t.Helper()
	trees := filepath.Join(c.Worker(), "snapshots")
	db, err := bolt.Open(filepath.Join(trees, "metadata.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Minute})
	require.NoError(t, err)
	var next uint64
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		next = tx.Bucket([]byte("v1")).Bucket([]byte("snapshots")).Sequence() + 1
		return nil
	}))
	require.NoError(t, db.Close())
	return filepath.Join(trees, "snapshots", strconv.FormatUint(next, 10))
}
