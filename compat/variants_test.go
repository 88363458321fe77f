package compat

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// backend is what is below a manager.
type backend struct {
	engine
	blobs  content.Store
	leases leases.Manager
}

func openBackend(t *testing.T, side, dir, snapshotter string) backend {
	t.Helper()
	if side == "stock" {
		s := openStock(t, dir, snapshotter)
		return backend{s, s.blobs, s.leases}
	}
	o := openOwn(t, dir, local.Options{Snapshotter: snapshotter})
	return backend{o, o.Parts.ContentStore, o.Parts.LeaseManager}
}

// TestVariants has one manager make blobs of layers, and variants of them in other compressions, and looks for them with the other: it offers the
// same combinations, and every blob can be read. Labels and leases say what they should, and stay as they are.
// spec VAR-1, VAR-2, VAR-3, RMT-6, RMT-7, RMT-8, LEASE-6, fault 34, quirk Q42
func TestVariants(t *testing.T) {
	need.Root(t)
	for _, snapshotter := range []string{snNative, snOverlayfs} {
		for _, sides := range [][2]string{{"stock", "ours"}, {"ours", "stock"}} {
			t.Run("made by "+sides[0]+"/"+snapshotter, func(t *testing.T) {
				if snapshotter == snOverlayfs {
					need.Overlay(t)
				}
				dir := filepath.Join(t.TempDir(), "runc-"+snapshotter)
				first := openBackend(t, sides[0], dir, snapshotter)
				ids := makeLayers(t, first, 3)
				top := ids[len(ids)-1]
				export(t, first, top, exportOpt{kind: "gzip", create: true})
				for _, kind := range []string{"zstd", "uncompressed", "estargz"} {
					export(t, first, top, exportOpt{kind: kind, create: true, force: true})
				}
				made := offers(t, first, top)
				stored := first.state(t)
				for _, id := range ids {
					require.Len(t, stored.leases[id+"-variants"], 4, "all four of a layer")
				}
				require.NoError(t, first.close())

				second := openBackend(t, sides[1], dir, snapshotter)
				require.NoError(t, second.collectGarbage(t.Context()))
				require.Equal(t, stored, second.state(t))
				require.Equal(t, made, offers(t, second, top))
				// What is there need not be made again.
				for _, kind := range []string{"gzip", "zstd", "uncompressed", "estargz"} {
					export(t, second, top, exportOpt{kind: kind, create: true, force: true})
				}
				require.Equal(t, stored, second.state(t))
				require.NoError(t, second.close())

				first = openBackend(t, sides[0], dir, snapshotter)
				require.NoError(t, first.collectGarbage(t.Context()))
				require.Equal(t, stored, first.state(t))
				require.Equal(t, made, offers(t, first, top))
				require.NoError(t, first.close())
			})
		}
	}
}

// makeLayers makes a chain of layers that stay and returns their IDs, bottom first.
func makeLayers(t *testing.T, e engine, n int) (ids []string) {
	t.Helper()
	parent := ""
	for i := range n {
		mut, err := e.create(t.Context(), parent, "", false)
		require.NoError(t, err)
		require.NoError(t, mut.SetCachePolicyRetain())
		write(t, mut, tree.File(string(rune('a'+i)), strings.Repeat("layer ", 100+i)))
		imm, err := mut.commit(t.Context())
		require.NoError(t, err)
		require.NoError(t, imm.finalize(t.Context()))
		e.settle(t, mut.ID())
		parent = imm.ID()
		ids = append(ids, parent)
		require.NoError(t, imm.Release(t.Context()))
	}
	return ids
}

// export returns the blobs of a record, which are read.
func export(t *testing.T, e engine, id string, o exportOpt) []chain {
	t.Helper()
	r, err := e.get(t.Context(), id)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Release(context.Background())) }()
	chains, err := r.export(t.Context(), o)
	require.NoError(t, err)
	for _, c := range chains {
		for _, desc := range c.blobs {
			data, err := content.ReadBlob(t.Context(), c.from, desc)
			require.NoError(t, err)
			require.Equal(t, desc.Digest, digest.FromBytes(data))
		}
	}
	return chains
}

// offers are all combinations of blobs that a manager has of a record, for each compression of the topmost one. The first is the record's own;
// the others are in no particular order.
func offers(t *testing.T, e engine, id string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, kind := range []string{"gzip", "zstd", "uncompressed", "estargz"} {
		var texts []string
		for _, c := range export(t, e, id, exportOpt{kind: kind, all: true}) {
			var b strings.Builder
			for _, desc := range c.blobs {
				b.WriteString(desc.MediaType + " " + desc.Digest.String())
				for _, name := range slices.Sorted(maps.Keys(desc.Annotations)) {
					b.WriteString(" " + name + "=" + desc.Annotations[name])
				}
				b.WriteString("\n")
			}
			texts = append(texts, b.String())
		}
		require.NotEmpty(t, texts)
		slices.Sort(texts[1:])
		out[kind] = texts
	}
	return out
}

// stateOfBlobs is what is stored of blobs.
type stateOfBlobs struct {
	labels map[string]map[string]string // by digest
	leases map[string][]string          // the resources of those of variants
}

func (b backend) state(t *testing.T) stateOfBlobs {
	t.Helper()
	s := stateOfBlobs{labels: map[string]map[string]string{}, leases: map[string][]string{}}
	require.NoError(t, b.blobs.Walk(t.Context(), func(info content.Info) error {
		s.labels[info.Digest.String()] = info.Labels
		return nil
	}))
	list, err := b.leases.List(t.Context())
	require.NoError(t, err)
	for _, l := range list {
		if !strings.HasSuffix(l.ID, "-variants") {
			continue
		}
		resources, err := b.leases.ListResources(t.Context(), l)
		require.NoError(t, err)
		for _, r := range resources {
			s.leases[l.ID] = append(s.leases[l.ID], r.Type+" "+r.ID)
		}
		slices.Sort(s.leases[l.ID])
	}
	return s
}
