package cache_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/usage"
)

// Random scripts of everything that can be done with records, on the backends in memory and on the model side
// by side: whatever one call answers, and all that DiskUsage, Search and the refs show after every step, has to be the
// same. A script that fails is shrunk; rapid prints its seed and a file from which it can be run again.
// spec MGR-1, MGR-2, MGR-6, MGR-7, MGR-8, MGR-9, MGR-10, MGR-11, MGR-13, MGR-14, MGR-17, MGR-21, MGR-23, MGR-27, MGR-29, MGR-30, MGR-41, EXT-3, EXT-6, VAR-1, REF-20, REF-1, REF-2, REF-3, REF-4, REF-5,
// REF-6, REF-7, REF-8, REF-8a, REF-10, REF-11, REF-15, REF-16, REF-17, REF-19, MNT-2, MNT-3, MNT-5, MV-1, MV-2, MV-3,
// MV-4, MGR-31, MGR-32, MGR-33, MGR-34, MGR-37, MGR-39, EXT-4, META-8, DU-1, DU-2, DU-3, DU-5, DU-6, PRN-7, PRN-8, PRN-9, PRN-10, PRN-11, PRN-12, PRN-16, PRN-18, PRN-19,
// FLT-1, FLT-2, INIT-4, INIT-6, INIT-8, INIT-11, INIT-12, fault 1, fault 3, fault 8, fault 9, quirks Q02, Q24, Q33, Q36, Q75
func TestModel(t *testing.T) {
	fewerChecks(t, 3)
	rapid.Check(t, func(rt *rapid.T) { runScript(t, rt, "doubles", "joined", "separate") })
}

// The same scripts, fewer, on the native snapshotter too, and on overlayfs where that works; see TestModel.
func TestModelOnDisk(t *testing.T) {
	names := []string{"doubles", "native"}
	t.Run("overlay", func(t *testing.T) {
		need.Overlay(t)
		names = append(names, "overlay")
	})
	fewerChecks(t, 20)
	rapid.Check(t, func(rt *rapid.T) { runScript(t, rt, names...) })
}

// fewerChecks divides the number of scripts, for which rapid has but one flag (-rapid.checks, 100 by default): a script
// takes much longer than what that number is meant for.
func fewerChecks(t *testing.T, by int) {
	f := flag.Lookup("rapid.checks")
	all := f.Value.String()
	n, err := strconv.Atoi(all)
	require.NoError(t, err)
	require.NoError(t, f.Value.Set(strconv.Itoa(max(1, n/by))))
	t.Cleanup(func() { require.NoError(t, f.Value.Set(all)) })
}

// script is one run of the model and the caches.
type script struct {
	m    *model
	suts []*sut
}

func runScript(t *testing.T, rt *rapid.T, names ...string) {
	tb := &scriptTB{TB: t, rt: rt}
	x := &script{}
	useAfterRelease := rapid.Bool().Draw(rt, "use after release")
	option := testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.UseAfterRelease = useAfterRelease })
	whole := false
	defer func() {
		if !whole { // what is wrong was said
			for _, s := range x.suts {
				s.env.Crash()
			}
		}
		tb.cleanUp()
	}()
	for _, name := range names {
		env := testutil.New(tb, append(slices.Clone(backends[name]), option)...)
		if len(x.suts) > 0 { // one time for all
			env.Clock.Advance(x.m.now.Sub(env.Clock.Now()))
		} else {
			x.m = newModel(env.Clock.Now().Add(time.Minute))
			x.m.useAfterRelease = useAfterRelease
			env.Clock.Advance(time.Minute)
		}
		x.suts = append(x.suts, &sut{name: name, tb: tb, env: env, ids: map[*half]string{}, names: map[string]*half{}, refs: map[*handle]cache.Ref{}})
	}
	actions := map[string]func(*rapid.T){"": x.compare}
	for name, action := range map[string]func(*rapid.T){
		"new": x.create, "new child": x.createChild, "build": x.build, "build child": x.buildChild, "write": x.write, "commit": x.commit, "finalize": x.finalize, "get": x.get, "get again": x.get,
		"get mutable": x.getMutable, "clone": x.clone, "release": x.release, "release all": x.releaseAll, "read": x.read,
		"set value": x.setValue, "set": x.set, "chain": x.chain, "disk usage": x.diskUsage, "prune": x.prune,
		"get by blob": x.getByBlob, "get child by blob": x.getChildByBlob, "merge": x.merge, "diff": x.diff, "extract": x.extract, "list files": x.listFiles, "lose": x.lose,
		"collect garbage": x.collect, "flush": x.flush, "wait": x.wait, "reopen": x.reopen, "crash": x.crash,
	} {
		actions[name] = func(rt *rapid.T) {
			x.advance(time.Second)
			action(rt)
		}
	}
	rt.Repeat(actions)
	x.releaseAll(rt)
	x.mend()
	x.reopen(rt) // takes what lost its policy while it was idle, which the cleanup would wonder about
	x.compare(rt)
	whole = true
}

// advance moves all clocks; no two steps are at one time.
func (x *script) advance(d time.Duration) {
	x.m.now = x.m.now.Add(d)
	for _, s := range x.suts {
		s.env.Clock.Advance(d)
		require.True(s.tb, s.env.Clock.Now().Equal(x.m.now))
	}
}

// pickHandle draws a handle, live ones first, that ok admits.
func (x *script) pickHandle(rt *rapid.T, ok func(*handle) bool) *handle {
	byName := map[string]*handle{}
	var names []string
	for _, dead := range []bool{false, true} {
		for _, h := range x.m.handles {
			if h.released == dead && ok(h) && (!dead || len(names) == 0 || h.half.layer != nil) {
				byName[h.name] = h
				names = append(names, h.name)
			}
		}
	}
	if len(names) == 0 {
		rt.Skip("no such handle")
	}
	return byName[rapid.SampledFrom(names).Draw(rt, "handle")]
}

func (h *handle) mutable() bool { return h.half.name[0] == 'm' }

func immutable(h *handle) bool { return !h.mutable() }

func anyHandle(*handle) bool { return true }

// pickHalf draws a name, of a layer that is gone now and then.
func (x *script) pickHalf(rt *rapid.T) *half {
	byName := map[string]*half{}
	var names, gone []string
	for _, h := range x.m.halves {
		byName[h.name] = h
		if h.layer != nil {
			names = append(names, h.name)
		} else {
			gone = append(gone, h.name)
		}
	}
	names = append(names, gone[max(0, len(gone)-2):]...)
	if len(names) == 0 {
		rt.Skip("no name")
	}
	return byName[rapid.SampledFrom(names).Draw(rt, "name")]
}

func (x *script) create(rt *rapid.T) { x.makeLayer(rt, nil) }

func (x *script) createChild(rt *rapid.T) { x.makeLayer(rt, x.pickHandle(rt, immutable)) }

// build and buildChild make a layer that is committed at once and idle, as most layers of a cache are.
func (x *script) build(rt *rapid.T) { x.buildLayer(rt, nil) }

func (x *script) buildChild(rt *rapid.T) { x.buildLayer(rt, x.pickHandle(rt, immutable)) }

func (x *script) buildLayer(rt *rapid.T, parent *handle) {
	if h := x.makeLayer(rt, parent); h != nil {
		x.releaseHandle(x.commitHandle(h))
	}
}

var (
	kinds        = []usage.RecordType{"", usage.TypeRegular, usage.TypeInternal, usage.TypeFrontend, usage.TypeCacheMount}
	descriptions = []string{"", "d1", "d2"}
)

// makeLayer returns nil if the parent is gone.
func (x *script) makeLayer(rt *rapid.T, parent *handle) *handle {
	x.skipUnhandled(rt, parent)
	retain := rapid.IntRange(0, 2).Draw(rt, "retain") > 0
	desc := rapid.SampledFrom(descriptions).Draw(rt, "description")
	kind := rapid.SampledFrom(kinds).Draw(rt, "type")
	var opts []cache.RefOption
	if retain {
		opts = append(opts, cache.CachePolicyRetain)
	}
	if desc != "" {
		opts = append(opts, cache.WithDescription(desc))
	}
	if kind != "" {
		opts = append(opts, cache.WithRecordType(kind))
	}
	h, want := x.m.create(parent)
	if want == fine {
		h.half.retain, h.half.desc, h.half.kind = retain, desc, kind
	}
	for _, s := range x.suts {
		var p cache.ImmutableRef
		if parent != nil {
			p = s.immutable(parent)
		}
		ref, err := s.env.Manager.New(ctx, p, nil, opts...)
		s.expect(want, err, "New")
		if err == nil {
			s.learn(h, ref)
		}
	}
	if want == fine { // no layer is empty, so that each has a size to prune for
		x.writeFile(h, "born", h.half.name)
	}
	return h
}

func (x *script) write(rt *rapid.T) {
	h := x.pickHandle(rt, (*handle).mutable)
	name := rapid.SampledFrom([]string{"a", "b", "dir/c"}).Draw(rt, "file")
	text := ""
	if rapid.IntRange(0, 3).Draw(rt, "delete") > 0 {
		text = h.name + x.m.now.Format("05")
	}
	x.writeFile(h, name, text)
}

// writeFile writes a file, or deletes it if text is empty.
func (x *script) writeFile(h *handle, name, text string) {
	want := x.m.mount(h, false)
	if want == fine {
		h.layer.files[name] = text
		if text == "" {
			delete(h.layer.files, name)
		}
	}
	for _, s := range x.suts {
		if want != fine {
			_, err := s.refs[h].Mount(ctx, false, nil)
			s.expect(want, err, "Mount")
			continue
		}
		testutil.WithMount(s.tb, s.refs[h], false, func(dir string) {
			path := filepath.Join(dir, name)
			if text == "" {
				require.NoError(s.tb, os.RemoveAll(path))
				return
			}
			require.NoError(s.tb, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(s.tb, os.WriteFile(path, []byte(text), 0o600))
		})
	}
}

// read mounts a ref and compares what is there; "writable" mounts of immutable refs, too.
func (x *script) read(rt *rapid.T) {
	h := x.pickHandle(rt, anyHandle)
	readonly := rapid.Bool().Draw(rt, "readonly")
	x.skipUnhandled(rt, h)
	want := x.m.mount(h, readonly)
	for _, s := range x.suts {
		if want != fine {
			// With the option what is left of a record that was never finalized can be read until it is collected.
			left, err := s.refs[h].Mount(ctx, readonly, nil)
			if !readonly || err != nil || !immutable(h) || !x.m.useAfterRelease {
				s.expect(want, err, "Mount")
				continue
			}
			require.NotNil(s.tb, left)
		}
		testutil.WithMount(s.tb, s.refs[h], readonly, func(dir string) {
			require.Equal(s.tb, h.layer.files, readFiles(s.tb, dir), "%s: files of %s", s.name, h.name)
		})
	}
}

func (x *script) commit(rt *rapid.T) { x.commitHandle(x.pickHandle(rt, (*handle).mutable)) }

func (x *script) commitHandle(h *handle) *handle {
	imm, want := x.m.commit(h)
	for _, s := range x.suts {
		ref, err := s.mutable(h).Commit(ctx)
		s.expect(want, err, "Commit")
		if err == nil {
			s.learn(imm, ref)
		}
	}
	return imm
}

func (x *script) finalize(rt *rapid.T) {
	h := x.pickHandle(rt, immutable)
	want := x.m.finalize(h)
	for _, s := range x.suts {
		s.expect(want, s.immutable(h).Finalize(ctx), "Finalize")
	}
}

func (x *script) get(rt *rapid.T) {
	half := x.pickHalf(rt)
	var opts []cache.RefOption
	if !rapid.Bool().Draw(rt, "triggers") {
		opts = append(opts, cache.NoUpdateLastUsed)
	}
	triggers, handled := len(opts) == 0, rapid.IntRange(0, 3).Draw(rt, "handlers") > 0
	h, want := x.m.get(half, triggers, handled)
	for _, s := range x.suts {
		opts := opts
		if handled {
			_, handlers := pool(s.tb)
			opts = append(opts[:len(opts):len(opts)], handlers)
		}
		ref, err := s.env.Manager.Get(ctx, s.id(half), nil, opts...)
		s.expect(want, err, "Get")
		if err == nil {
			s.learn(h, ref)
		}
	}
}

func (x *script) getMutable(rt *rapid.T) {
	half := x.pickHalf(rt)
	h, want := x.m.getMutable(half)
	for _, s := range x.suts {
		ref, err := s.env.Manager.GetMutable(ctx, s.id(half))
		s.expect(want, err, "GetMutable")
		if err == nil {
			s.learn(h, ref)
		}
	}
}

func (x *script) clone(rt *rapid.T) {
	h := x.pickHandle(rt, immutable)
	c := x.m.clone(h)
	for _, s := range x.suts {
		s.learn(c, s.immutable(h).Clone())
	}
}

// chain takes and releases a ref to every layer (spec REF-19).
func (x *script) chain(rt *rapid.T) {
	h := x.pickHandle(rt, immutable)
	var chain []*handle
	if h.half.layer != nil {
		for _, l := range h.layer.walk() {
			chain = append(chain, x.m.newHandle(l.imm, false))
		}
	}
	for _, s := range x.suts {
		list := s.immutable(h).LayerChain()
		if h.half.layer != nil {
			require.Len(s.tb, list, len(chain))
			for i, ref := range list {
				s.learn(chain[i], ref)
			}
		}
		require.NoError(s.tb, list.Release(ctx))
	}
	for _, c := range chain {
		x.m.release(c)
	}
}

func (x *script) release(rt *rapid.T) {
	x.releaseHandle(x.pickHandle(rt, anyHandle))
}

func (x *script) releaseAll(*rapid.T) {
	for _, h := range slices.Clone(x.m.handles) {
		x.releaseHandle(h)
	}
}

func (x *script) releaseHandle(h *handle) {
	x.m.release(h)
	for _, s := range x.suts {
		require.NoError(s.tb, s.refs[h].Release(ctx), "%s: releasing %s", s.name, h.name)
	}
}

// wait lets enough time pass for uses to be written.
func (x *script) wait(rt *rapid.T) {
	x.advance(time.Duration(rapid.IntRange(5, 60).Draw(rt, "seconds")) * time.Second)
	x.m.flushed()
}

func (x *script) flush(*rapid.T) {
	x.m.flushed()
	for _, s := range x.suts {
		require.NoError(s.tb, s.env.Opt.MetadataStore.Flush())
	}
}

// reopen closes the caches, with refs out, and opens them again: nothing is lost.
func (x *script) reopen(*rapid.T) {
	x.m.restart()
	x.m.flushed()
	for _, s := range x.suts {
		s.env.Reopen()
		s.refs = map[*handle]cache.Ref{}
	}
}

// crash drops the caches: the latest uses may be lost, all those since one time, and those of that time kept.
func (x *script) crash(rt *rapid.T) {
	x.m.restart()
	for i, s := range x.suts {
		s.env.Crash()
		s.env.Open()
		s.refs = map[*handle]cache.Ref{}
		if i > 0 {
			continue // compare finds whether it lost the same
		}
		require.True(rt, x.m.lose(func(seen map[*half]use) bool {
			for _, h := range x.m.halves {
				if h.layer != nil && s.stored(h) != seen[h] {
					return false
				}
			}
			return true
		}), "%s: uses are lost that were to be kept", s.name)
	}
}

// stored reads a use from a half's row.
func (s *sut) stored(h *half) use {
	it, ok := s.env.Opt.MetadataStore.Get(s.id(h))
	require.True(s.tb, ok, "%s: %s has no row", s.name, h.name)
	number := func(key string) (n int64) {
		if v := it.Get(key); v != nil {
			_, err := fmt.Sscan(string(v.Value), &n)
			require.NoError(s.tb, err)
		}
		return n
	}
	return use{count: int(number("cache.usageCount")), last: number("cache.lastUsedAt")}
}
