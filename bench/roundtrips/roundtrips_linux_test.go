package roundtrips

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/gc"
	bkcache "github.com/moby/buildkit/cache"
	bkmetadata "github.com/moby/buildkit/cache/metadata"
	bkclient "github.com/moby/buildkit/client"
	bksession "github.com/moby/buildkit/session"
	bksnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/winlayers"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/containerd/daemon"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

func TestMain(m *testing.M) { os.Exit(daemon.Main(m)) }

// side is one of the two, on the same daemon, with the operations that are compared. Each works on what the one before has left.
type side struct {
	steps map[string]func() error
	end   func() error
	// late are calls that are made in the background when an operation is over, by its name.
	late map[string]string
}

// works are the rows of the table, in order.
var works = []string{
	"New", "Commit + Finalize", "Release", "Get", "Mount", "Release of what was mounted", "GetByBlob, miss", "GetByBlob, hit",
	"Extract of a pulled layer", "Prune of 100 records",
}

const snapshotter, records = "overlayfs", 100

// TestRoundTripsBesideBuildKit writes docs/roundtrips.md's table, and requires that this library asks for no more than BuildKit in any row
// (issue 10; bench rows 1, 3, 5, 6, 11).
func TestRoundTripsBesideBuildKit(t *testing.T) {
	d := daemon.Start(t)
	counts, texts := map[string][2]int{}, map[string][2]string{}
	for i, open := range []func(*testing.T, *client.Client) *side{ours, theirs} {
		var n daemon.Calls
		s := open(t, d.Client(n.Opt(), client.WithDefaultNamespace([]string{"ours", "theirs"}[i])))
		for _, work := range works {
			for _, step := range []string{"before " + work, work} {
				n.Take()
				if do := s.steps[step]; do != nil {
					require.NoError(t, do(), step)
				}
				require.Eventually(t, func() bool {
					text, _ := n.Look()
					return strings.Contains(text, s.late[step])
				}, 10*time.Second, time.Millisecond, step)
			}
			text, total := n.Take()
			c, x := counts[work], texts[work]
			c[i], x[i] = total, text
			counts[work], texts[work] = c, x
		}
		require.NoError(t, s.end())
	}
	var sb strings.Builder
	for _, work := range works {
		fmt.Fprintf(&sb, "| %s | %d | %d | %s | %s |\n", work, counts[work][0], counts[work][1], texts[work][0], texts[work][1])
	}
	t.Logf("\n%s", sb.String())
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "roundtrips.md"))
	require.NoError(t, err)
	for _, work := range works {
		require.LessOrEqual(t, counts[work][0], counts[work][1], work)
		row := fmt.Sprintf("| %s | %d | %d | %s |", work, counts[work][0], counts[work][1], texts[work][0])
		require.Contains(t, string(doc), row, "docs/roundtrips.md is not current:\n%s", sb.String())
	}
}

// layer is a layer that has to be pulled.
func layer(t *testing.T) (ocispecs.Descriptor, content.Provider) {
	t.Helper()
	data, err := tree.Tar(tree.File("file", "content"))
	require.NoError(t, err)
	d := digest.FromBytes(data)
	return ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer, Digest: d, Size: int64(len(data)),
		Annotations: map[string]string{"containerd.io/uncompressed": d.String()},
	}, provider(data)
}

type provider []byte

func (p provider) ReaderAt(context.Context, ocispecs.Descriptor) (content.ReaderAt, error) {
	return blob{bytes.NewReader(p)}, nil
}

type blob struct{ *bytes.Reader }

func (blob) Close() error { return nil }

// verbs are what a manager of either side is asked for, with what differs between the types of the two taken away.
type verbs[I immutable, M mutable[I]] struct {
	new    func() (M, error)
	get    func(id string) (I, error)
	byBlob func() (I, error)
	mount  func(I) (release func() error, err error)
	unpack func(I) error
	usage  func() error
	prune  func() error
}

type immutable interface {
	ID() string
	Finalize(context.Context) error
	Release(context.Context) error
}

type mutable[I immutable] interface {
	Commit(context.Context) (I, error)
}

// mounted mounts what a ref's Mount returned.
func mounted[M interface {
	Mount() ([]mount.Mount, func() error, error)
}](m M, err error) (func() error, error) {
	if err != nil {
		return nil, err
	}
	_, release, err := m.Mount()
	return release, err
}

// steps are the operations that are compared, on a manager that closes with end.
func steps[I immutable, M mutable[I]](ctx context.Context, v verbs[I, M], end func() error) *side {
	var mut M
	var ref, lazy I
	begin := func() (err error) { mut, err = v.new(); return err }
	finish := func() (err error) {
		if ref, err = mut.Commit(ctx); err != nil {
			return err
		}
		return ref.Finalize(ctx)
	}
	release := func() error { return ref.Release(ctx) }
	return &side{end: end, steps: map[string]func() error{
		"New":               begin,
		"Commit + Finalize": finish,
		"Release":           release,
		"Get":               func() (err error) { ref, err = v.get(ref.ID()); return err },
		"Mount": func() error {
			unmount, err := v.mount(ref)
			if err != nil {
				return err
			}
			return unmount()
		},
		"Release of what was mounted": release,
		"GetByBlob, miss":             func() (err error) { lazy, err = v.byBlob(); return err },
		"GetByBlob, hit": func() error {
			again, err := v.byBlob()
			if err != nil {
				return err
			}
			return again.Release(ctx)
		},
		"Extract of a pulled layer": func() error { return v.unpack(lazy) },
		"before Prune of 100 records": func() error {
			if err := lazy.Release(ctx); err != nil {
				return err
			}
			if err := v.prune(); err != nil {
				return err
			}
			for range records {
				for _, step := range []func() error{begin, finish, release} {
					if err := step(); err != nil {
						return err
					}
				}
			}
			return v.usage() // has the sizes measured, as they are by the time of a prune
		},
		"Prune of 100 records": v.prune,
	}}
}

func ours(t *testing.T, c *client.Client) *side {
	ctx := t.Context()
	m, err := containerd.Open(ctx, c, t.TempDir(), containerd.Options{Namespace: "ours", Snapshotter: snapshotter})
	require.NoError(t, err)
	desc, from := layer(t)
	dhs := cache.DescHandlers{desc.Digest: {Provider: func(session.Group) content.Provider { return from }, Ref: "origin"}}
	return steps(ctx, verbs[cache.ImmutableRef, cache.MutableRef]{
		new:    func() (cache.MutableRef, error) { return m.New(ctx, nil, nil) },
		get:    func(id string) (cache.ImmutableRef, error) { return m.Get(ctx, id, nil) },
		byBlob: func() (cache.ImmutableRef, error) { return m.GetByBlob(ctx, desc, nil, dhs) },
		mount:  func(ref cache.ImmutableRef) (func() error, error) { return mounted(ref.Mount(ctx, true, nil)) },
		unpack: func(ref cache.ImmutableRef) error { return ref.Extract(ctx, nil) },
		usage:  func() error { _, err := m.DiskUsage(ctx, usage.DiskUsageInfo{}); return err },
		prune:  func() error { return m.Prune(ctx, nil, usage.PruneInfo{All: true}) },
	}, m.Close)
}

// theirManager is BuildKit's cache on a client, put together as its containerd worker does it.
func theirManager(t *testing.T, c *client.Client) bkcache.Manager {
	t.Helper()
	const ns = "theirs"
	dir := t.TempDir()
	rows, err := bkmetadata.NewStore(filepath.Join(dir, "metadata_v2.db"))
	require.NoError(t, err)
	store := bksnapshot.NewContentStore(c.ContentStore(), ns)
	lm := leaseutil.WithNamespace(c.LeasesService(), ns)
	m, err := bkcache.NewManager(bkcache.ManagerOpt{
		Snapshotter:  bksnapshot.NewSnapshotter(snapshotter, c.SnapshotService(snapshotter), ns, nil),
		ContentStore: store, LeaseManager: lm, MetadataStore: rows, Root: dir, MountPoolRoot: filepath.Join(dir, "cachemounts"),
		Applier: winlayers.NewFileSystemApplierWithWindows(store, c.DiffService()),
		Differ:  winlayers.NewWalkingDiffWithWindows(store, c.DiffService()),
		GarbageCollect: func(ctx context.Context) (gc.Stats, error) {
			l, err := lm.Create(ctx)
			if err != nil {
				return nil, err
			}
			return nil, lm.Delete(ctx, leases.Lease{ID: l.ID}, leases.SynchronousDelete)
		},
	})
	require.NoError(t, err)
	return m
}

// theirs is BuildKit's side.
func theirs(t *testing.T, c *client.Client) *side {
	ctx, m := t.Context(), theirManager(t, c)
	desc, from := layer(t)
	dhs := bkcache.DescHandlers{desc.Digest: {Provider: func(bksession.Group) content.Provider { return from }, Ref: "origin"}}
	s := steps(ctx, verbs[bkcache.ImmutableRef, bkcache.MutableRef]{
		new:    func() (bkcache.MutableRef, error) { return m.New(ctx, nil, nil) },
		get:    func(id string) (bkcache.ImmutableRef, error) { return m.Get(ctx, id, nil) },
		byBlob: func() (bkcache.ImmutableRef, error) { return m.GetByBlob(ctx, desc, nil, dhs) },
		mount:  func(ref bkcache.ImmutableRef) (func() error, error) { return mounted(ref.Mount(ctx, true, nil)) },
		unpack: func(ref bkcache.ImmutableRef) error { return ref.Extract(ctx, nil) },
		usage:  func() error { _, err := m.DiskUsage(ctx, bkclient.DiskUsageInfo{}); return err },
		prune:  func() error { return m.Prune(ctx, nil, bkclient.PruneInfo{All: true}) },
	}, m.Close)
	s.late = map[string]string{"Commit + Finalize": "2 Leases/Delete", "before Prune of 100 records": "406 Leases/Delete"}
	return s
}
