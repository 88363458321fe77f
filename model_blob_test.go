package cache_test

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil/tree"
)

// This file is what the model knows of layers from blobs, and what scripts do with them: two archives, each in two
// compressions, so that layers share snapshots, blobs, both or neither.

// blobPool names the blobs: archive, dot, compression.
var blobPool = []string{"a.gzip", "a.zstd", "b.", "b.gzip"}

// unpack changes files as an archive does.
func unpack(files map[string]string, blob string) map[string]string {
	files = maps.Clone(files)
	archive, _, _ := strings.Cut(blob, ".")
	if archive == "b" {
		delete(files, "a")
	}
	files[archive] = archive
	return files
}

var thePool struct {
	sync.Mutex
	registry *registry
	descs    map[string]ocispecs.Descriptor
}

// pool returns the blobs and handlers for them.
func pool(t testing.TB) (map[string]ocispecs.Descriptor, cache.DescHandlers) {
	thePool.Lock()
	defer thePool.Unlock()
	if thePool.descs == nil {
		thePool.registry, thePool.descs = newRegistry(), map[string]ocispecs.Descriptor{}
		archives := map[string][]tree.Entry{
			"a": {tree.File("a", "a")}, "b": {tree.File("b", "b"), tree.Whiteout("a")},
		}
		for _, name := range blobPool {
			archive, compression, _ := strings.Cut(name, ".")
			thePool.descs[name] = thePool.registry.layer(t, compression, archives[archive]...)
		}
	}
	return thePool.descs, thePool.registry.handlers(slices.Collect(maps.Values(thePool.descs))...)
}

// key names the snapshot of a layer from a blob: layers of the same archives on each other share one.
func (l *layer) key() string {
	key := ""
	for ; l != nil; l = l.parent {
		archive, _, _ := strings.Cut(l.blob, ".")
		key = "/" + archive + key
	}
	return key
}

// blobs names the blobs of a layer and all it lies on; ok is false if one of them has none.
func (l *layer) blobs() (chain []string, ok bool) {
	for ; l != nil; l = l.parent {
		if l.blob == "" {
			return nil, false
		}
		chain = append(chain, l.blob)
	}
	return chain, true
}

// unreachable tells whether a layer or one it lies on was never extracted, and its blob is not local (spec MGR-8).
func (m *model) unreachable(l *layer) bool {
	return l.only && !m.local[l.blob] || slices.ContainsFunc(l.below(), m.unreachable)
}

// pulls tells whether blobs have to be pulled for the tree of a layer to be there.
func (m *model) pulls(l *layer) bool {
	return len(m.pulled(l, map[*layer]bool{})) > 0
}

// pull makes a layer's blob local, and notes whose lease on variants lists it (spec VAR-1).
func (m *model) pull(l *layer) {
	if !m.local[l.blob] {
		m.local[l.blob], l.linked = true, true
	}
}

// extract is Extract, and what Mount and New do first (spec EXT-3, EXT-6, MGR-30, quirk Q33).
func (m *model) extract(l *layer) {
	if l != nil && l.tree != nil && !l.tree.made {
		for _, n := range l.needs() {
			m.extract(n)
		}
		l.tree.made = true
	}
	if l == nil || l.blob == "" {
		return
	}
	if !m.snaps[l.key()] {
		m.extract(l.parent)
		m.pull(l)
		m.snaps[l.key()] = true
	}
	l.only = false
}

// gc is a garbage collection: a blob or snapshot stays while a lease lists it.
func (m *model) gc() {
	listed := func(what func(l *layer) string) func(string, bool) bool {
		return func(name string, _ bool) bool {
			return !slices.ContainsFunc(m.layers, func(l *layer) bool { return l.blob != "" && what(l) == name })
		}
	}
	maps.DeleteFunc(m.local, listed(func(l *layer) string { return l.blob }))
	maps.DeleteFunc(m.snaps, listed((*layer).key))
}

// getByBlob is GetByBlob (spec MGR-17, MGR-21 to MGR-27).
func (m *model) getByBlob(blob string, parent *handle, handled bool) (*handle, answer) {
	if !handled && !m.local[blob] {
		return nil, missing
	}
	l := &layer{blob: blob, only: true, files: map[string]string{}}
	if parent != nil {
		if parent.half.layer == nil {
			return nil, notFound
		}
		l.parent = parent.layer
		if !handled && m.unreachable(l.parent) {
			m.letGo(l.parent)
			return nil, missing
		}
		l.files = l.parent.files
	}
	chain, ok := l.blobs()
	if !ok {
		m.letGo(l.parent)
		return nil, precondition
	}
	at := slices.IndexFunc(m.layers, func(o *layer) bool {
		other, ok := o.blobs()
		return ok && slices.Equal(other, chain)
	})
	if at >= 0 {
		l = m.layers[at]
	} else {
		l.files = unpack(l.files, blob)
		l.imm = m.newHalf("i", l)
		l.imm.fromBlob = true
		m.layers = append(m.layers, l)
	}
	h := m.newHandle(l.imm, true)
	h.handled = handled
	return h, fine
}

func (x *script) getByBlob(rt *rapid.T) { x.getBlob(rt, nil) }

func (x *script) getChildByBlob(rt *rapid.T) { x.getBlob(rt, x.pickHandle(rt, immutable)) }

func (x *script) getBlob(rt *rapid.T, parent *handle) {
	blob := rapid.SampledFrom(blobPool).Draw(rt, "blob")
	handled := rapid.IntRange(0, 3).Draw(rt, "handlers") > 0
	unlazy := rapid.IntRange(0, 2).Draw(rt, "unlazy") == 0
	if parent != nil {
		if chain, ok := parent.layer.blobs(); ok && (slices.Contains(chain, blob) || len(chain) > 3) {
			rt.Skip("which of two layers has a blob pulled is up to chance")
		}
	}
	if unlazy && !handled {
		rt.Skip("how far that gets is up to chance")
	}
	h, want := x.m.getByBlob(blob, parent, handled)
	if want == fine && unlazy {
		x.m.extract(h.layer)
	}
	for _, s := range x.suts {
		descs, handlers := pool(s.tb)
		var opts []cache.RefOption
		if handled {
			opts = append(opts, handlers)
		}
		if unlazy {
			opts = append(opts, cache.Unlazy(nil))
		}
		var p cache.ImmutableRef
		if parent != nil {
			p = s.immutable(parent)
		}
		ref, err := s.env.Manager.GetByBlob(ctx, descs[blob], p, opts...)
		s.expect(want, err, "GetByBlob")
		if err == nil {
			s.learn(h, ref)
		}
	}
}

// skipUnhandled ends a step that would pull blobs without handlers: how far it gets before that fails is up to chance.
func (x *script) skipUnhandled(rt *rapid.T, h *handle) {
	if h == nil {
		return
	}
	x.skipChance(rt, h.layer)
	if !h.handled && x.m.pulls(h.layer) {
		rt.Skip("no handlers")
	}
}

func (x *script) extract(rt *rapid.T) {
	h := x.pickHandle(rt, immutable)
	x.skipUnhandled(rt, h)
	want := invalid
	if !x.m.gone(h) {
		want = fine
		x.m.extract(h.layer)
	}
	for _, s := range x.suts {
		s.expect(want, s.immutable(h).Extract(ctx, nil), "Extract")
	}
}

// listFiles is FileList (spec REF-20).
func (x *script) listFiles(rt *rapid.T) {
	h := x.pickHandle(rt, immutable)
	l := h.layer
	pulls := l.blob != "" && !l.listed && !x.m.local[l.blob]
	if !h.handled && pulls {
		rt.Skip("no handlers")
	}
	want, names := invalid, []string(nil)
	if !x.m.gone(h) {
		if want = fine; l.blob != "" {
			if pulls {
				x.m.pull(l)
			}
			l.listed = true
			if names = []string{"a"}; l.blob[0] == 'b' {
				names = []string{".wh.a", "b"}
			}
		}
	}
	for _, s := range x.suts {
		got, err := s.immutable(h).FileList(ctx, nil)
		s.expect(want, err, "FileList")
		require.Equal(s.tb, names, got, "%s: %s", s.name, h.name)
	}
}

// lose has a snapshot vanish that nothing lies on, or a blob, behind the backs of the caches (faults 8, 9).
func (x *script) lose(rt *rapid.T) {
	m := x.m
	var names []string
	for key := range m.snaps {
		used := slices.ContainsFunc(m.layers, func(l *layer) bool {
			return l.blob == "" && l.parent != nil && l.parent.key() == key || l.blob != "" && l.viewed && l.key() == key ||
				l.tree != nil && m.hasKey(l, key)
		})
		for other := range m.snaps {
			used = used || strings.HasPrefix(other, key+"/")
		}
		if !used {
			names = append(names, key)
		}
	}
	for blob := range m.local {
		names = append(names, blob)
	}
	if len(names) == 0 {
		rt.Skip("nothing to lose")
	}
	slices.Sort(names)
	name := rapid.SampledFrom(names).Draw(rt, "lost")
	owner := m.layers[slices.IndexFunc(m.layers, func(l *layer) bool { return l.blob != "" && (l.blob == name || l.key() == name) })]
	for _, s := range x.suts {
		descs, _ := pool(s.tb)
		r := leases.Resource{Type: "content", ID: descs[name].Digest.String()}
		if m.snaps[name] {
			r = leases.Resource{Type: "snapshots/" + s.env.Opt.Snapshotter.Name(), ID: snapshotOf(s.tb, s.env, s.id(owner.imm))}
		}
		s.lose(r)
	}
	delete(m.snaps, name)
	delete(m.local, name)
}

// lose has something collected though leases list it, which look as before.
func (s *sut) lose(r leases.Resource) {
	lm := s.env.Opt.LeaseManager
	ls, err := lm.List(ctx)
	require.NoError(s.tb, err)
	var listing []leases.Lease
	for _, l := range ls {
		rs, err := lm.ListResources(ctx, l)
		require.NoError(s.tb, err)
		if slices.Contains(rs, r) {
			listing = append(listing, l)
			require.NoError(s.tb, lm.DeleteResource(ctx, l, r))
		}
	}
	require.NoError(s.tb, s.env.GC(ctx))
	for _, l := range listing {
		require.NoError(s.tb, lm.AddResource(ctx, l, r))
	}
}

// mend has lost trees made again, which the check at the end would wonder about.
func (x *script) mend() {
	for _, l := range x.m.layers {
		if l.blob == "" || l.only || x.m.snaps[l.key()] {
			continue
		}
		x.advance(1e9)
		h, want := x.m.get(l.imm, false, true)
		require.Equal(x.suts[0].tb, fine, want)
		x.m.extract(l)
		for _, s := range x.suts {
			_, handlers := pool(s.tb)
			ref, err := s.env.Manager.Get(ctx, s.id(l.imm), nil, cache.NoUpdateLastUsed, handlers)
			require.NoError(s.tb, err)
			s.learn(h, ref)
			require.NoError(s.tb, ref.Extract(ctx, nil))
		}
		x.releaseHandle(h)
	}
}

// hasKey tells whether a merge or a diff may lie on the snapshot of a layer from a blob.
func (m *model) hasKey(l *layer, key string) bool {
	return slices.ContainsFunc(m.layers, func(o *layer) bool { return o.blob != "" && o.key() == key && l.reaches(o) })
}
