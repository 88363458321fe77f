// Package knownrun is a run of a cache of which is known what happens in it, for tests of those who observe one.
package knownrun

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/observe"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/registry"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// Waited is how long the clock stands still for in the run; no other time passes by it.
const Waited = time.Hour

// Run is what is known of the run.
type Run struct {
	// Want are the events that there must be, by their names (see observe.Name): how many, how many with an error, and the sums of records
	// and bytes. Their durations are not told. The events of opening and closing the cache are not among them.
	Want observe.Counts
	// Full are the records that there must be before any is pruned: how many, by state, kind and type. Their Bytes are not told; together
	// they are FullBytes.
	Full      []cache.Total
	FullBytes int64

	t    testing.TB
	env  *testutil.Env
	reg  *registry.Registry
	held []cache.Ref
	ctx  context.Context
}

// Do carries the run out on an empty cache, and calls full when there is most in it. Its parts are the environment's, real or not; the
// blobs come from reg.
func Do(t testing.TB, env *testutil.Env, reg *registry.Registry, full func(*Run)) *Run {
	t.Helper()
	r := &Run{Want: observe.Counts{}, t: t, env: env, reg: reg, ctx: context.Background()}
	base, top := r.fromBlobs()
	child := r.written(top)
	r.derived(base, child)
	idle := r.idle()
	r.misses(child)
	r.export(child)
	r.full()
	if full != nil {
		full(r)
	}
	for _, ref := range r.held {
		require.NoError(t, ref.Release(r.ctx))
		r.want("release", 1, 0)
	}
	r.prune(idle)
	return r
}

// want adds events to those that there must be.
func (r *Run) want(name string, events, size int64) {
	c := r.Want[name]
	c.Events += events
	c.Bytes += size
	r.Want[name] = c
}

// wantError adds an event that comes with an error.
func (r *Run) wantError(name string) {
	c := r.Want[name]
	c.Events++
	c.Errors++
	r.Want[name] = c
}

// layer packs a layer.
func (r *Run) layer(compression, name string) ocispecs.Descriptor {
	r.t.Helper()
	return r.reg.Layer(r.t, compression, tree.File(name, name+" from a blob"))
}

func (r *Run) handlers(descs ...ocispecs.Descriptor) cache.DescHandlers {
	dhs := cache.DescHandlers{}
	for _, d := range descs {
		dhs[d.Digest] = &cache.DescHandler{
			Provider: func(session.Group) content.Provider { return r.reg.Provider("image") },
			Ref:      r.reg.Host() + "/image:latest",
		}
	}
	return dhs
}

// fromBlobs: two layers on each other, the upper of which is known in two compressions; pulled and extracted by the second use.
func (r *Run) fromBlobs() (base, top cache.ImmutableRef) {
	t, m := r.t, r.env.Manager
	a, b, other := r.layer("gzip", "base"), r.layer("gzip", "top"), r.layer("zstd", "top")
	dhs := r.handlers(a, b, other)

	base, err := m.GetByBlob(r.ctx, a, nil, dhs)
	require.NoError(t, err)
	r.want("new.blob.unknown", 1, 0)
	again, err := m.GetByBlob(r.ctx, a, nil, dhs)
	require.NoError(t, err)
	require.NoError(t, again.Release(r.ctx))
	r.want("get.hit.blob", 1, 0)

	top, err = m.GetByBlob(r.ctx, b, base, dhs)
	require.NoError(t, err)
	r.want("new.blob.unknown", 1, 0)
	require.NoError(t, top.Extract(r.ctx, nil))
	require.NoError(t, top.Extract(r.ctx, nil))
	r.want("pull.fetched", 2, a.Size+b.Size)
	r.want("extract", 2, a.Size+b.Size)

	recompressed, err := m.GetByBlob(r.ctx, other, base, dhs)
	require.NoError(t, err)
	r.want("new.blob.tree", 1, 0)
	require.NoError(t, recompressed.Extract(r.ctx, nil), "the tree is there")

	_, err = m.GetByBlob(r.ctx, r.layer("gzip", "elsewhere"), base)
	require.Error(t, err)
	r.wantError("get.miss.no provider")
	r.held = append(r.held, base, top, recompressed)
	return base, top
}

// written: a layer is made on another, found to be locked, committed, taken back, and committed for good; another one is given up.
func (r *Run) written(parent cache.ImmutableRef) cache.ImmutableRef {
	t, m := r.t, r.env.Manager
	mut, err := m.New(r.ctx, parent, nil, cache.CachePolicyRetain)
	require.NoError(t, err)
	r.want("new", 1, 0)
	_, err = m.GetMutable(r.ctx, mut.ID())
	require.ErrorIs(t, err, cache.ErrLocked)
	r.wantError("get.miss.locked")
	id := mut.ID()
	testutil.WithMount(t, mut, false, func(dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "written"), []byte("by hand"), 0o600))
	})
	r.want("mount", 1, 0)
	imm, err := mut.Commit(r.ctx)
	require.NoError(t, err)
	require.NoError(t, imm.Release(r.ctx))
	r.want("commit", 1, 0)
	r.want("release", 1, 0)

	mut, err = m.GetMutable(r.ctx, id)
	require.NoError(t, err)
	r.want("reopen", 1, 0)
	r.want("get.hit.id", 1, 0)
	imm, err = mut.Commit(r.ctx)
	require.NoError(t, err)
	require.NoError(t, imm.Finalize(r.ctx))
	r.want("commit", 1, 0)
	r.want("finalize", 1, 0)

	given, err := m.New(r.ctx, nil, nil)
	require.NoError(t, err)
	require.NoError(t, given.Release(r.ctx))
	r.want("new", 1, 0)
	r.want("remove.released", 1, 0)
	r.want("release", 1, 0)
	r.held = append(r.held, imm)
	return imm
}

// derived: a merge and a diff, made present.
func (r *Run) derived(base, child cache.ImmutableRef) {
	t, m := r.t, r.env.Manager
	lone := testutil.MakeLayer(t, r.env, nil, nil)
	require.NoError(t, lone.Finalize(r.ctx))
	r.want("new", 1, 0)
	r.want("commit", 1, 0)
	r.want("finalize", 1, 0)
	merge, err := m.Merge(r.ctx, []cache.ImmutableRef{child, lone}, nil)
	require.NoError(t, err)
	require.NoError(t, merge.Extract(r.ctx, nil))
	r.want("new.merge", 1, 0)
	r.want("extract.merge", 1, 0)
	diff, err := m.Diff(r.ctx, lone, base, nil)
	require.NoError(t, err)
	require.NoError(t, diff.Extract(r.ctx, nil))
	r.want("new.diff", 1, 0)
	r.want("extract.diff", 1, 0)
	r.held = append(r.held, lone, merge, diff)
}

// idle: four records that nobody uses, one for each rule of a prune, of an hour before.
func (r *Run) idle() (ids []string) {
	for range 4 {
		imm := testutil.MakeLayer(r.t, r.env, nil, nil)
		require.NoError(r.t, imm.Finalize(r.ctx))
		require.NoError(r.t, imm.SetRecordType(usage.TypeCacheMount))
		ids = append(ids, imm.ID())
		require.NoError(r.t, imm.Release(r.ctx))
		r.want("new", 1, 0)
		r.want("commit", 1, 0)
		r.want("finalize", 1, 0)
		r.want("release", 1, 0)
	}
	r.env.Clock.Advance(Waited)
	return ids
}

// misses: IDs that nobody has, or that are not what was asked for.
func (r *Run) misses(imm cache.ImmutableRef) {
	m := r.env.Manager
	_, err := m.Get(r.ctx, "nobody", nil)
	require.True(r.t, cache.IsNotFound(err))
	r.wantError("get.miss.not found")
	_, err = m.GetMutable(r.ctx, imm.ID())
	require.Error(r.t, err)
	r.wantError("get.miss.invalid")
	ref, err := m.Get(r.ctx, imm.ID(), nil)
	require.NoError(r.t, err)
	require.NoError(r.t, ref.Release(r.ctx))
	r.want("get.hit.id", 1, 0)
}

// export: what was written by hand gets a blob; the layers below have theirs.
func (r *Run) export(ref cache.ImmutableRef) {
	remotes, err := ref.GetRemotes(r.ctx, true, remote.RefConfig{}, false, nil)
	require.NoError(r.t, err)
	descs := remotes[0].Descriptors
	require.Len(r.t, descs, 3)
	r.want("pack.gzip", 1, descs[2].Size)
	r.want("export", 1, descs[0].Size+descs[1].Size+descs[2].Size)
}

// full: what there is by now. Whoever asks for the disk usage has everything measured, and what is shared told apart.
func (r *Run) full() {
	infos, err := r.env.Manager.DiskUsage(r.ctx, usage.DiskUsageInfo{})
	require.NoError(r.t, err)
	for _, info := range infos {
		r.FullBytes += info.Size
	}
	r.Full = []cache.Total{
		{State: "ready", Kind: "base layer", RecordType: usage.TypeCacheMount, Records: 4},
		{State: "ready", Kind: "base layer", RecordType: usage.TypeRegular, Records: 2, InUse: 2},
		{State: "ready", Kind: "diff", RecordType: usage.TypeRegular, Records: 1, InUse: 1},
		{State: "ready", Kind: "layer", RecordType: usage.TypeRegular, Records: 3, InUse: 3},
		{State: "ready", Kind: "merge", RecordType: usage.TypeRegular, Records: 1, InUse: 1},
	}
}

// prune: one of the idle records by each rule, and then the rest.
func (r *Run) prune(idle []string) {
	policies := map[string]usage.PruneInfo{
		cache.RuleMaxUsedSpace:  {MaxUsedSpace: 1},
		cache.RuleMinFreeSpace:  {MinFreeSpace: 1 << 62},
		cache.RuleReservedSpace: {ReservedSpace: 1},
		cache.RuleKeepDuration:  {KeepDuration: Waited / 2},
	}
	r.call(usage.PruneInfo{All: true, DryRun: true}, "")
	at := 0
	for rule, policy := range policies {
		policy.All, policy.Filter = true, []string{"id==" + idle[at]}
		at++
		require.Len(r.t, r.call(policy, rule), 1, rule)
	}
	require.Len(r.t, r.call(usage.PruneInfo{All: true}, cache.RuleIdle), 7)
	require.Empty(r.t, r.env.Manager.Totals())
}

// call is one prune; the rule is empty for a dry run.
func (r *Run) call(policy usage.PruneInfo, rule string) []usage.Info {
	ch := make(chan usage.Info, 64)
	require.NoError(r.t, r.env.Manager.Prune(r.ctx, ch, policy))
	close(ch)
	var gone []usage.Info
	var size int64
	for info := range ch {
		gone = append(gone, info)
		size += info.Size
	}
	name := "prune"
	if rule == "" {
		name = "prune.dry run"
	} else {
		r.want("remove.pruned."+rule, int64(len(gone)), size)
		r.want("collect", 1, 0)
	}
	c := r.Want[name]
	c.Events, c.Records, c.Bytes = c.Events+1, c.Records+int64(len(gone)), c.Bytes+size
	r.Want[name] = c
	return gone
}
