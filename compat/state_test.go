package compat

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/compat/golden"
	"github.com/layercache/cache/testutil/tree"
)

const (
	snNative    = "native"
	snOverlayfs = "overlayfs"
)

// record is what is expected of one row of a state directory.
type record struct {
	name, id string
	// mutable is the ID of the row below an unfinalized one.
	mutable   string
	isMutable bool
	// tree is its content if that was read. A recipe has no snapshot yet.
	tree   tree.Tree
	recipe bool
	// lazy are the blobs that have to be fetched to get it.
	lazy []digest.Digest
	// gone is the rule by which our start removes it, lost how BuildKit's loses it.
	gone, lost string
	// cleared are keys that a start repairs.
	cleared []string
}

// state is what is expected of a directory.
type state struct {
	dir, snapshotter string
	records          map[string]*record // by name
	// rows is the database when it was last closed.
	rows *golden.Content
}

func (s *state) add(r *record) *record {
	s.records[r.name] = r
	return r
}

// drop forgets a record that was deleted.
func (s *state) drop(name string) { delete(s.records, name) }

// ids returns the IDs by the fate of the records.
func (s *state) ids(which func(*record) bool) map[string]bool {
	ids := map[string]bool{}
	for _, r := range s.records {
		if which(r) {
			ids[r.id] = true
		}
	}
	return ids
}

// dropAll forgets the records that a start removed.
func (s *state) dropAll(which func(*record) bool) {
	maps.DeleteFunc(s.records, func(_ string, r *record) bool { return which(r) })
}

func goneByRule(r *record) bool  { return r.gone != "" }
func lostByStock(r *record) bool { return r.lost != "" }

// readRows reads the metadata of a closed directory.
func readRows(t *testing.T, dir string) *golden.Content {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "metadata_v2.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	require.NoError(t, err)
	content := read(t, db)
	require.NoError(t, db.Close())
	return content
}

// volatile are the keys that change by looking at a record.
var volatile = map[string]bool{"cache.lastUsedAt": true, "cache.usageCount": true, "snapshot.size": true}

// requireRows compares the closed directory with what it was before: the records that are expected have the
// same values, external items and index entries, and those of which removed is true have left nothing.
func (s *state) requireRows(t *testing.T, removed map[string]bool) {
	t.Helper()
	got := readRows(t, s.dir)
	for _, r := range s.records {
		if removed[r.id] {
			require.NotContains(t, got.Rows, r.id, r.name)
			require.NotContains(t, got.External, r.id, r.name)
			require.Empty(t, indexesOf(got, r.id), r.name)
			continue
		}
		require.Contains(t, got.Rows, r.id, r.name)
		if s.rows.Rows[r.id] == nil {
			continue // it is new
		}
		require.Equal(t, valuesOf(s.rows, r), valuesOf(got, r), r.name)
		require.Equal(t, s.rows.External[r.id], got.External[r.id], r.name)
		require.Equal(t, indexesOf(s.rows, r.id), indexesOf(got, r.id), r.name)
	}
	s.rows = got
}

// valuesOf returns what a row must keep.
func valuesOf(c *golden.Content, r *record) map[string]string {
	values := map[string]string{}
	for key, value := range c.Rows[r.id] {
		if value != "" && !volatile[key] && !slices.Contains(r.cleared, key) {
			values[key] = value
		}
	}
	return values
}

// indexesOf returns the indexes under which a record is found.
func indexesOf(c *golden.Content, id string) (indexes []string) {
	for _, entry := range c.Index {
		if index, ok := strings.CutSuffix(entry, "::"+id); ok {
			indexes = append(indexes, index)
		}
	}
	return indexes
}

// requireState looks at every record of an open directory through the manager's own API: identity,
// description, indexes, external items, tree. Records of which skip is true must not be found.
func (s *state) requireState(t *testing.T, e engine, skip map[string]bool) {
	t.Helper()
	ctx := t.Context()
	for _, name := range slices.Sorted(maps.Keys(s.records)) {
		r := s.records[name]
		for _, index := range indexesOf(s.rows, r.id) {
			found, err := e.search(ctx, index)
			require.NoError(t, err, name)
			require.Equal(t, !skip[r.id], slices.Contains(found, r.id), "%s: %q", name, index)
		}
		if skip[r.id] {
			if r.lost == "" { // what BuildKit loses stays in its memory until it ends
				_, err := e.get(ctx, r.id, r.lazy...)
				require.Error(t, err, name)
			}
			continue
		}
		if r.isMutable && s.pairOf(r) != nil {
			continue // getting it takes the other half back
		}
		s.requireRecord(t, e, r)
	}
}

// pairOf returns the immutable half of a mutable record.
func (s *state) pairOf(mut *record) *record {
	for _, r := range s.records {
		if r.mutable == mut.id && r.gone == "" {
			return r
		}
	}
	return nil
}

func (s *state) requireRecord(t *testing.T, e engine, r *record) {
	t.Helper()
	ctx := t.Context()
	var (
		h   *ref
		err error
	)
	if r.isMutable {
		h, err = e.getMutable(ctx, r.id)
	} else {
		h, err = e.get(ctx, r.id, r.lazy...)
	}
	require.NoError(t, err, r.name)
	require.Equal(t, r.id, h.ID(), r.name)
	require.Equal(t, r.name, h.GetDescription())
	for key, value := range s.rows.External[r.id] {
		got, err := h.GetExternal(key)
		require.NoError(t, err, r.name)
		require.Equal(t, value, got, r.name)
	}
	if r.tree != nil && !r.recipe {
		require.Empty(t, tree.Diff(r.tree, treeOf(t, h)), r.name)
	}
	require.NoError(t, h.Release(ctx))
}
