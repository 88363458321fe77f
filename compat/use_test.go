package compat

import (
	"testing"

	buildkit "github.com/moby/buildkit/cache"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// use works with a directory as an engine does: on what was left under the suffix from, and leaving
// as much under the suffix by.
func (s *state) use(t *testing.T, e engine, from, by string) {
	t.Helper()
	ctx := t.Context()

	// A cache mount is written to.
	mount := s.records["mount"]
	mut, err := e.getMutable(ctx, mount.id)
	require.NoError(t, err)
	write(t, mut, tree.File("written"+by, by))
	mount.tree = treeOf(t, mut)
	require.NoError(t, mut.Release(ctx))

	// A commit is taken back, written on, and made again for good.
	pair := s.records["pair"+from]
	mut, err = e.getMutable(ctx, pair.mutable)
	require.NoError(t, err)
	_, err = e.get(ctx, pair.id)
	require.Error(t, err, "its commit was taken back")
	write(t, mut, tree.File("written"+by, by))
	s.finish(t, e, mut)
	s.drop(pair.name + ", mutable half")
	s.drop(pair.name)

	// Building on a commit makes it final.
	lower := s.records["pair to build on"+from]
	top := s.layer(t, e, lower.id, "layer on pair"+by)
	e.settle(t, lower.mutable)
	s.drop(lower.name + ", mutable half")
	lower.mutable, lower.cleared = "", []string{"cache.equalMutable"}
	require.NoError(t, top.Release(ctx))

	ref := s.layer(t, e, s.records["child"].id, "layer"+by)
	require.NoError(t, ref.SetString("git-remote", by, "git-remote::"+by))
	require.NoError(t, ref.SetExternal("buildkit.contenthash.v0", []byte(by)))
	require.NoError(t, ref.Release(ctx))

	victim := s.records["victim"+from]
	gone, err := e.prune(ctx, victim.id)
	require.NoError(t, err)
	require.Equal(t, []string{victim.id}, gone)
	_, err = e.get(ctx, victim.id)
	require.Error(t, err)
	s.drop(victim.name)

	s.leave(t, e, by)
	require.NoError(t, e.collectGarbage(ctx))
}

// leave makes what use needs next time.
func (s *state) leave(t *testing.T, e engine, by string) {
	t.Helper()
	ctx := t.Context()
	s.pair(t, e, s.records["base"].id, "pair"+by)
	s.pair(t, e, "", "pair to build on"+by)
	require.NoError(t, s.layer(t, e, s.records["child"].id, "victim"+by).Release(ctx))
	mut, err := e.create(ctx, s.records["base"].id, "mount"+by, true)
	require.NoError(t, err)
	write(t, mut, tree.File("cached", by))
	require.NoError(t, mut.SetString("cache-dir", "cache-dir:mount"+by, "cache-dir:mount"+by))
	s.add(&record{name: "mount" + by, id: mut.ID(), isMutable: true, tree: treeOf(t, mut)})
	require.NoError(t, mut.Release(ctx))
}

// makeOwn fills a new directory with our library.
func (s *state) makeOwn(t *testing.T, o *own) {
	t.Helper()
	ctx := t.Context()
	for _, l := range []struct{ parent, name string }{
		{"", "base"}, {"base", "child"}, {"child", "grandchild"}, {"base", "other"},
	} {
		parent := ""
		if l.parent != "" {
			parent = s.records[l.parent].id
		}
		var more []tree.Entry
		if l.name == "base" {
			more = baseTree()
		}
		ref := s.layer(t, o, parent, l.name, more...)
		require.NoError(t, ref.SetString("local.sharedKey", l.name, "local.sharedKey:"+l.name))
		require.NoError(t, ref.SetExternal("filelist", []byte(`["`+l.name+`"]`)))
		require.NoError(t, ref.Release(ctx))
	}
	s.leave(t, o, "")
}

// layer makes a finalized record, of which it returns the ref.
func (s *state) layer(t *testing.T, e engine, parent, name string, entries ...tree.Entry) *ref {
	t.Helper()
	mut, err := e.create(t.Context(), parent, name, false)
	require.NoError(t, err)
	write(t, mut, append(entries, tree.File("file of "+name, name))...)
	imm, err := mut.commit(t.Context())
	require.NoError(t, err)
	require.NoError(t, imm.finalize(t.Context()))
	e.settle(t, mut.ID())
	s.add(&record{name: name, id: imm.ID(), tree: treeOf(t, imm)})
	return imm
}

// finish commits and finalizes a record that is there already.
func (s *state) finish(t *testing.T, e engine, mut *ref) {
	t.Helper()
	ctx := t.Context()
	imm, err := mut.commit(ctx)
	require.NoError(t, err)
	require.NoError(t, imm.finalize(ctx))
	e.settle(t, mut.ID())
	name := imm.GetDescription() + ", again"
	require.NoError(t, imm.SetDescription(name))
	s.add(&record{name: name, id: imm.ID(), tree: treeOf(t, imm)})
	require.NoError(t, imm.Release(ctx))
}

// pair leaves a record that is committed and not finalized.
func (s *state) pair(t *testing.T, e engine, parent, name string) {
	t.Helper()
	ctx := t.Context()
	mut, err := e.create(ctx, parent, name, true)
	require.NoError(t, err)
	write(t, mut, tree.File("file of "+name, name))
	imm, err := mut.commit(ctx)
	require.NoError(t, err)
	require.NoError(t, imm.SetCachePolicyRetain())
	s.add(&record{name: name + ", mutable half", id: mut.ID(), isMutable: true})
	s.add(&record{name: name, id: imm.ID(), mutable: mut.ID(), tree: treeOf(t, imm)})
	require.NoError(t, imm.Release(ctx))
}

// stockRefs returns BuildKit's own refs to records.
func (s *state) stockRefs(t *testing.T, m *stock, names ...string) map[string]buildkit.ImmutableRef {
	t.Helper()
	refs := map[string]buildkit.ImmutableRef{}
	for _, name := range names {
		ref, err := m.Get(t.Context(), s.records[name].id, nil)
		require.NoError(t, err)
		refs[name] = ref
	}
	return refs
}
