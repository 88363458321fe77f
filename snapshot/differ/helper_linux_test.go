package differ_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	cfs "github.com/containerd/continuity/fs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/tree"
)

func TestMain(m *testing.M) {
	if err := log.SetLevel("error"); err != nil { // the content store warns about filesystems in memory
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const labelUncompressed = "containerd.io/uncompressed"

// labels is a label store in memory.
type labels struct {
	mu sync.Mutex
	m  map[digest.Digest]map[string]string
}

func (l *labels) Get(d digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.m[d]), nil
}

func (l *labels) Set(d digest.Digest, set map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.m[d] = maps.Clone(set)
	return nil
}

func (l *labels) Update(d digest.Digest, update map[string]string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m[d] == nil {
		l.m[d] = map[string]string{}
	}
	maps.Copy(l.m[d], update)
	return maps.Clone(l.m[d]), nil
}

// newStore is containerd's content store.
func newStore(t testing.TB) content.Store {
	t.Helper()
	cs, err := contentlocal.NewLabeledStore(t.TempDir(), &labels{m: map[digest.Digest]map[string]string{}})
	require.NoError(t, err)
	return cs
}

// noUploads requires that nothing is left of failed calls.
func noUploads(t testing.TB, cs content.Store) {
	t.Helper()
	list, err := cs.ListStatuses(context.WithoutCancel(t.Context()))
	require.NoError(t, err)
	require.Empty(t, list)
}

func readBlob(t testing.TB, cs content.Store, desc ocispecs.Descriptor) []byte {
	t.Helper()
	data, err := content.ReadBlob(t.Context(), cs, desc)
	require.NoError(t, err)
	return data
}

func bind(dir string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}}
}

func write(t testing.TB, entries ...tree.Entry) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, tree.Write(dir, entries...))
	return dir
}

type compare func(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error)

// plainArchive packs a layer without compression, and returns the archive.
func plainArchive(t testing.TB, c func(*differ.Differ) compare, lower, upper []mount.Mount, opts ...diff.Opt) []byte {
	t.Helper()
	cs := newStore(t)
	desc, err := c(differ.New(cs))(t.Context(), lower, upper, append(opts, diff.WithMediaType(ocispecs.MediaTypeImageLayer))...)
	require.NoError(t, err)
	noUploads(t, cs)
	data := readBlob(t, cs, desc)
	require.Equal(t, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data))}, desc)
	return data
}

func compareAny(d *differ.Differ) compare   { return d.Compare }
func compareUpper(d *differ.Differ) compare { return d.CompareUpper }

// containerd is what its own writer makes of two directories; an empty lower one is none.
func containerd(t testing.TB, lower, upper string, opts ...archive.WriteDiffOpt) []byte {
	t.Helper()
	if lower == "" {
		lower = t.TempDir()
	}
	var b bytes.Buffer
	require.NoError(t, archive.WriteDiff(t.Context(), &b, lower, upper, opts...))
	return b.Bytes()
}

// requireArchive compares archives, first as lists.
func requireArchive(t require.TestingT, want, got []byte, msg ...any) {
	if bytes.Equal(want, got) {
		return
	}
	require.Equal(t, list(t, want), list(t, got), msg...)
	require.Failf(t, "the archives list the same entries with other bytes", fmt.Sprint(msg...))
}

// list is what an archive has: an entry with its content's digest in each line.
func list(t require.TestingT, data []byte) string {
	var b strings.Builder
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		hdr, err := tr.Next()
		if err == io.EOF { //nolint:errorlint // as archive/tar documents it
			return b.String()
		}
		require.NoError(t, err)
		content, err := io.ReadAll(tr)
		require.NoError(t, err)
		fmt.Fprintf(&b, "%c %q -> %q %o %d:%d %d:%d %v %d %v %v %v\n", hdr.Typeflag, hdr.Name, hdr.Linkname, hdr.Mode, hdr.Uid, hdr.Gid,
			hdr.Devmajor, hdr.Devminor, hdr.ModTime.UTC(), hdr.Size, hdr.PAXRecords, hdr.Format, digest.FromBytes(content).Encoded()[:8])
	}
}

// stacks are the snapshots of a history, made in plain directories, each a copy of its parent, or as layers of overlays.
type stacks struct {
	dir     string
	overlay bool
	parents []int
}

func newStacks(t testing.TB, overlay bool) *stacks {
	return &stacks{dir: t.TempDir(), overlay: overlay, parents: []int{0}}
}

func (s *stacks) at(n int) string { return filepath.Join(s.dir, fmt.Sprint(n)) }

// layers are the directories of a snapshot, the topmost first.
func (s *stacks) layers(n int) (dirs []string) {
	for ; n > 0; n = s.parents[n] {
		dirs = append(dirs, s.at(n))
	}
	return dirs
}

// add makes the next snapshot. Before is called for each operation, and may leave it out.
func (s *stacks) add(step history.Step, allow func(dir string, op history.Op) bool) error {
	n := len(s.parents)
	s.parents = append(s.parents, step.Parent)
	play := func(dir string) error {
		for i, op := range step.Ops {
			if allow != nil && !allow(dir, op) {
				continue
			}
			// One at a time, with the times that they would have together.
			ops := make([]history.Op, i+1)
			for k := range ops {
				ops[k] = history.Op{Do: history.Remove, Path: "nothing at all"}
			}
			ops[i] = op
			if err := (history.Step{Ops: ops}).Apply(dir, n); err != nil {
				return err
			}
		}
		return nil
	}
	if err := os.Mkdir(s.at(n), 0o755); err != nil {
		return err
	}
	switch {
	case step.Parent == 0:
		return play(s.at(n))
	case !s.overlay:
		if err := cfs.CopyDir(s.at(n), s.at(step.Parent)); err != nil {
			return err
		}
		return play(s.at(n))
	}
	work := filepath.Join(s.dir, fmt.Sprintf("work%d", n))
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(work)
	return mount.WithTempMount(context.Background(), []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "redirect_dir=off", "lowerdir=" + strings.Join(s.layers(step.Parent), ":"), "upperdir=" + s.at(n), "workdir=" + work,
	}}}, play)
}

// mounts are those of a view.
func (s *stacks) mounts(n int) []mount.Mount {
	dirs := s.layers(n)
	switch {
	case n == 0:
		return nil
	case len(dirs) == 1 || !s.overlay:
		return bind(s.at(n))
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"index=off", "lowerdir=" + strings.Join(dirs, ":")}}}
}
