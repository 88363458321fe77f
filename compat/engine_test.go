package compat

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// engine is a cache manager on a state directory, be it BuildKit's or ours.
type engine interface {
	// get returns an immutable ref, with handlers for the blobs that are not local.
	get(ctx context.Context, id string, lazy ...digest.Digest) (*ref, error)
	getMutable(ctx context.Context, id string) (*ref, error)
	// create makes a mutable record on a parent, "" for none. A cache mount is retained.
	create(ctx context.Context, parent, description string, cacheMount bool) (*ref, error)
	// search returns the IDs of the records that have exactly this index.
	search(ctx context.Context, index string) ([]string, error)
	usage(ctx context.Context) (map[string]usageRow, error)
	// prune deletes one record and returns the IDs of those that were deleted.
	prune(ctx context.Context, id string) ([]string, error)
	// settle waits until nothing goes on in the background that concerns these IDs.
	settle(t *testing.T, ids ...string)
	collectGarbage(ctx context.Context) error
	close() error
}

// handle is the part of a ref that both managers have word for word.
type handle interface {
	ID() string
	Release(context.Context) error
	GetDescription() string
	SetDescription(string) error
	SetCachePolicyRetain() error
	GetExternal(string) ([]byte, error)
	SetExternal(string, []byte) error
	GetString(string) string
	SetString(key, val, index string) error
}

// ref is a ref of either manager. finalize and export are nil for a mutable one, commit for an immutable one.
type ref struct {
	handle
	mount    func(ctx context.Context, readonly bool) (mountable, error)
	finalize func(context.Context) error
	commit   func(context.Context) (*ref, error)
	export   func(context.Context, exportOpt) ([]chain, error)
}

// exportOpt is in which form the blobs of a ref are wanted.
type exportOpt struct {
	kind               string
	create, force, all bool
}

// chain is a list of blobs, bottom first, and where to read them.
type chain struct {
	blobs []ocispecs.Descriptor
	from  content.Provider
}

type mountable interface {
	Mount() ([]mount.Mount, func() error, error)
}

// usageRow is what both managers report of a record, in a form that compares.
type usageRow struct {
	Mutable, InUse, Shared bool
	Size, Created          int64
	LastUsed               int64 // 0: never
	Count                  int
	Parents                string
	Description, Type      string
}

// inTree calls fn with the directory where a ref's tree is. A single bind mount is not mounted, so that
// an ordinary user gets there as well.
func inTree(t *testing.T, r *ref, readonly bool, fn func(dir string) error) {
	t.Helper()
	m, err := r.mount(t.Context(), readonly)
	require.NoError(t, err)
	mounts, release, err := m.Mount()
	require.NoError(t, err)
	if len(mounts) == 1 && (mounts[0].Type == "bind" || mounts[0].Type == "rbind") {
		err = fn(mounts[0].Source)
	} else {
		err = mount.WithTempMount(t.Context(), mounts, fn)
	}
	require.NoError(t, err)
	if release != nil {
		require.NoError(t, release())
	}
}

// treeOf reads the tree of a ref.
func treeOf(t *testing.T, r *ref) (got tree.Tree) {
	t.Helper()
	inTree(t, r, true, func(dir string) (err error) {
		got, err = tree.Read(dir)
		return err
	})
	return got
}

// write adds entries to the tree of a mutable ref.
func write(t *testing.T, r *ref, entries ...tree.Entry) {
	t.Helper()
	inTree(t, r, false, func(dir string) error { return tree.Write(dir, entries...) })
}
