package cache_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache"
	"github.com/layercache/cache/usage"
)

// compare is the invariant of every script: what is seen of the caches is what the model says.
func (x *script) compare(*rapid.T) {
	for _, s := range x.suts {
		infos, err := s.env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
		require.NoError(s.tb, err)
		s.requireInfos(x.m.list(0, func(*layer) bool { return true }, s.id), infos)
		refs := 0
		for _, h := range x.m.handles {
			if !h.released {
				refs++
			}
			s.requireRow(x.m, h)
		}
		stats := s.env.Manager.Stats()
		require.Equal(s.tb, [2]int{len(x.m.layers), refs}, [2]int{stats.Records, stats.Refs}, "%s: records, refs", s.name)
		for _, index := range []string{"k1:v", "k1:", "k2:w"} {
			for _, prefix := range []bool{false, true} {
				s.requireFound(x.m, index, prefix)
			}
		}
	}
}

// list is DiskUsage (spec DU-6).
func (m *model) list(limit time.Duration, match func(*layer) bool, name func(*half) string) []usage.Info {
	var out []usage.Info
	for _, l := range m.layers {
		if !m.young(l, limit) && match(l) {
			out = append(out, m.info(l, name))
		}
	}
	return out
}

// requireInfos compares what DiskUsage lists. How large a tree is, is the backend's affair.
func (s *sut) requireInfos(want []usage.Info, got []*usage.Info) {
	s.tb.Helper()
	var list []usage.Info
	for _, u := range got {
		if u.Mutable && u.InUse {
			require.Zero(s.tb, u.Size, "spec DU-5")
		} else if !s.names[u.ID].fromBlob { // what is lazy may have none
			require.Positive(s.tb, u.Size)
		}
		u := *u
		u.Size = 0
		list = append(list, u)
	}
	require.Equal(s.tb, s.texts(want), s.texts(list), "%s: disk usage", s.name)
}

// texts renders reports so that a difference can be read, with the model's names in place of IDs, sorted.
func (s *sut) texts(infos []usage.Info) []string {
	out := make([]string, len(infos))
	for i, u := range infos {
		out[i] = s.text(u)
	}
	slices.Sort(out)
	return out
}

func (s *sut) text(u usage.Info) string {
	last := "never"
	if u.LastUsedAt != nil {
		last = u.LastUsedAt.String()
	}
	return fmt.Sprintf("%s on %v: mutable=%v inUse=%v shared=%v %q %q, made %v, used %d times, last %s",
		s.halves([]string{u.ID})[0], s.halves(u.Parents), u.Mutable, u.InUse, u.Shared, u.RecordType, u.Description,
		u.CreatedAt, u.UsageCount, last)
}

// requireRow compares what a ref says of its half; nothing if that is gone (spec MV-1).
func (s *sut) requireRow(m *model, h *handle) {
	ref, want := s.refs[h], h.half
	if want.layer == nil {
		want = &half{}
	}
	require.Equal(s.tb, want.desc, ref.GetDescription(), h.name)
	require.Equal(s.tb, want.kind, ref.GetRecordType(), h.name)
	require.Equal(s.tb, want.retain, ref.HasCachePolicyRetain(), h.name)
	require.Equal(s.tb, !want.retain, ref.HasCachePolicyDefault(), h.name)
	require.True(s.tb, want.created.Equal(ref.GetCreatedAt()), h.name)
	for _, key := range []string{"k1", "k2"} {
		require.Equal(s.tb, want.values[key].text, ref.GetString(key), h.name)
	}
	mut, pair := ref.GetEqualMutable()
	require.Equal(s.tb, want.layer != nil && want == want.layer.imm && want.layer.mut != nil, pair, h.name)
	if pair {
		require.Equal(s.tb, s.id(want.layer.mut), mut.ID())
		require.Equal(s.tb, want.layer.mut.desc, mut.GetDescription())
	}
}

func (s *sut) requireFound(m *model, index string, prefix bool) {
	found, err := s.env.Manager.Search(ctx, index, prefix)
	require.NoError(s.tb, err)
	var got []string
	for _, md := range found {
		got = append(got, md.ID())
	}
	var want []string
	for _, h := range m.search(index, prefix) {
		want = append(want, s.id(h))
	}
	require.Equal(s.tb, s.halves(want), s.halves(got), "%s: search for %q, prefix=%v", s.name, index, prefix)
}

// setValue sets or clears a value, indexed or not.
func (x *script) setValue(rt *rapid.T) {
	h := x.pickHandle(rt, anyHandle)
	key := rapid.SampledFrom([]string{"k1", "k2"}).Draw(rt, "key")
	text := rapid.SampledFrom([]string{"", "v", "w"}).Draw(rt, "value")
	index := key + ":" + text
	if !rapid.Bool().Draw(rt, "indexed") {
		index = ""
	}
	x.change(h, func(h *half) {
		delete(h.values, key)
		if text != "" {
			h.values[key] = value{text, index}
		}
	}, func(ref cache.RefMetadata) error {
		if text == "" {
			return ref.ClearValueAndIndex(key, key+":") // spec MV-3
		}
		return ref.SetString(key, text, index)
	})
}

// change sets something in the model and in the caches.
func (x *script) change(r *handle, model func(*half), cached func(cache.RefMetadata) error) {
	want := x.m.set(r.half, model)
	for _, s := range x.suts {
		s.expect(want, cached(s.refs[r]), "setting")
	}
}

func (x *script) set(rt *rapid.T) {
	h := x.pickHandle(rt, anyHandle)
	switch rapid.SampledFrom([]string{"retain", "default", "description", "type", "creation"}).Draw(rt, "what") {
	case "retain":
		x.change(h, func(h *half) { h.retain = true }, cache.RefMetadata.SetCachePolicyRetain)
	case "default":
		x.change(h, func(h *half) { h.retain = false }, cache.RefMetadata.SetCachePolicyDefault)
	case "description":
		text := rapid.SampledFrom(descriptions).Draw(rt, "description")
		x.change(h, func(h *half) { h.desc = text }, func(md cache.RefMetadata) error { return md.SetDescription(text) })
	case "type":
		kind := rapid.SampledFrom(kinds).Draw(rt, "type")
		x.change(h, func(h *half) { h.kind = kind }, func(md cache.RefMetadata) error { return md.SetRecordType(kind) })
	case "creation": // a time of its own, see lowest
		at := x.m.now.Add(-24*time.Hour - time.Nanosecond)
		x.change(h, func(h *half) { h.created = at }, func(md cache.RefMetadata) error { return md.SetCreatedAt(at) })
	}
}

// clause is one filter: its text, where %s is an ID, and what it lets through (spec FLT-1, FLT-2).
type clause struct {
	text  string
	match func(m *model, l *layer, h *half) bool
}

func shownKind(m *model, l *layer) usage.RecordType { return m.info(l, noName).RecordType }

func noName(*half) string { return "" }

var clauses = []clause{
	{`mutable`, func(m *model, l *layer, _ *half) bool { return m.shown(l) == l.mut }},
	{`immutable`, func(m *model, l *layer, _ *half) bool { return m.shown(l) == l.imm }},
	{`inuse`, func(m *model, l *layer, _ *half) bool { return m.inUse(l) }},
	{`private`, func(*model, *layer, *half) bool { return true }},
	{`shared`, func(*model, *layer, *half) bool { return false }},
	{`mutable==true`, func(*model, *layer, *half) bool { return false }},
	{`type==regular`, func(m *model, l *layer, _ *half) bool { return shownKind(m, l) == usage.TypeRegular }},
	{`type!=exec.cachemount`, func(m *model, l *layer, _ *half) bool { return shownKind(m, l) != usage.TypeCacheMount }},
	{`description==d1`, func(m *model, l *layer, _ *half) bool { return m.shown(l).desc == "d1" }},
	{`description!=d1`, func(m *model, l *layer, _ *half) bool { return m.shown(l).desc != "d1" }},
	{`description~=d`, func(m *model, l *layer, _ *half) bool { return m.shown(l).desc != "" }},
	{`description`, func(m *model, l *layer, _ *half) bool { return m.shown(l).desc != "" }},
	{`id==%s`, func(m *model, l *layer, h *half) bool { return m.shown(l) == h }},
	{`id!=%s`, func(m *model, l *layer, h *half) bool { return m.shown(l) != h }},
	{`parents~=%s`, func(_ *model, l *layer, h *half) bool { return h != nil && l.parent != nil && l.parent.imm == h }},
}

// filter is what is drawn: alternatives of clauses that must all hold; none at all matches everything.
type filter struct {
	m    *model
	any  [][]clause
	half *half
}

func (x *script) pickFilter(rt *rapid.T) filter {
	f := filter{m: x.m}
	if len(x.m.halves) > 0 {
		f.half = x.pickHalf(rt)
	}
	for range rapid.IntRange(0, 2).Draw(rt, "filters") {
		var all []clause
		for range rapid.IntRange(1, 2).Draw(rt, "clauses") {
			i := rapid.IntRange(0, len(clauses)-1).Draw(rt, "clause")
			all = append(all, clauses[i])
		}
		f.any = append(f.any, all)
	}
	return f
}

func (f filter) match(l *layer) bool {
	return len(f.any) == 0 || slices.ContainsFunc(f.any, func(all []clause) bool {
		return !slices.ContainsFunc(all, func(c clause) bool { return !c.match(f.m, l, f.half) })
	})
}

func (f filter) texts(s *sut) (out []string) {
	for _, all := range f.any {
		var parts []string
		for _, c := range all {
			parts = append(parts, strings.ReplaceAll(c.text, "%s", s.id(f.half)))
		}
		out = append(out, strings.Join(parts, ","))
	}
	return out
}

var ages = []time.Duration{0, 0, 3 * time.Second, 30 * time.Second}

func (x *script) diskUsage(rt *rapid.T) {
	f := x.pickFilter(rt)
	limit := rapid.SampledFrom(ages).Draw(rt, "age limit")
	for _, s := range x.suts {
		infos, err := s.env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{Filter: f.texts(s), AgeLimit: limit})
		require.NoError(s.tb, err)
		s.requireInfos(x.m.list(limit, f.match, s.id), infos)
	}
}

// sizes asks for the sizes of all layers if that matters for one of the policies: a budget is met when nothing is left that takes
// space, and layers that are elsewhere take none (spec PRN-6).
func (x *script) sizes(policies []policy) map[*layer]int64 {
	budget := slices.ContainsFunc(policies, func(p policy) bool { return p.budget })
	if !budget || !slices.ContainsFunc(x.m.layers, func(l *layer) bool { return l.blob != "" }) {
		return nil
	}
	infos, err := x.suts[0].env.Manager.DiskUsage(ctx, usage.DiskUsageInfo{})
	require.NoError(x.suts[0].tb, err)
	sizes := map[*layer]int64{}
	for _, info := range infos {
		sizes[x.suts[0].names[info.ID].layer] = info.Size
	}
	return sizes
}

func (x *script) prune(rt *rapid.T) {
	var (
		filters  []filter
		policies []policy
	)
	ordered := true
	for range rapid.IntRange(0, 2).Draw(rt, "policies") {
		f := x.pickFilter(rt)
		p := policy{
			match: f.match, all: rapid.Bool().Draw(rt, "all"), budget: rapid.Bool().Draw(rt, "budget"),
			keep: rapid.SampledFrom(ages).Draw(rt, "keep"),
		}
		filters, policies = append(filters, f), append(policies, p)
		ordered = ordered && p.budget
	}
	var gone []usage.Info // by the model's names, which no later step changes
	sizes := x.sizes(policies)
	for _, p := range policies {
		gone = append(gone, x.m.prune(p, sizes, func(h *half) string { return h.name })...)
	}
	x.m.gc()
	want := make([]string, len(gone))
	for i, u := range gone {
		want[i] = x.suts[0].text(u)
	}
	for _, s := range x.suts {
		infos := make([]usage.PruneInfo, len(policies))
		for i, p := range policies {
			infos[i] = usage.PruneInfo{Filter: filters[i].texts(s), All: p.all, KeepDuration: p.keep}
			if p.budget {
				infos[i].MinFreeSpace = math.MaxInt64
			}
		}
		ch := make(chan usage.Info, len(gone)+len(x.m.layers))
		require.NoError(s.tb, s.env.Manager.Prune(ctx, ch, infos...))
		close(ch)
		got := []string{}
		for u := range ch {
			require.True(s.tb, u.Size > 0 || s.names[u.ID].fromBlob)
			u.Size = 0
			got = append(got, s.text(u))
		}
		if ordered {
			require.Equal(s.tb, want, got, "%s: pruned, in this order", s.name)
		}
		require.ElementsMatch(s.tb, want, got, "%s: pruned", s.name)
		s.requireBackend(x.m) // Prune collects garbage (spec PRN-1)
	}
}

// collect has the backend collect garbage behind the cache's back.
func (x *script) collect(*rapid.T) {
	x.m.gc()
	for _, s := range x.suts {
		require.NoError(s.tb, s.env.GC(ctx))
		s.requireBackend(x.m)
	}
}

// requireBackend compares the leases, and the snapshots and blobs after a garbage collection, with what the layers
// need (spec 2.2): one lease each, one for a view, and one for a blob that was pulled.
func (s *sut) requireBackend(m *model) {
	s.tb.Helper()
	var want, blobs []string
	snaps := map[string]bool{}
	for _, l := range m.layers {
		owner := l.mut
		if owner == nil {
			owner = l.imm
		}
		id := s.id(owner)
		want = append(want, id)
		snap := id
		if l.blob != "" {
			snap = snapshotOf(s.tb, s.env, id)
		}
		snaps[snap] = l.blob == "" || m.snaps[l.key()]
		if l.viewed {
			want = append(want, id+"-view")
			snaps[snap+"-view"] = true
		}
		if l.linked {
			want = append(want, id+"-variants")
		}
	}
	descs, _ := pool(s.tb)
	for name := range m.local {
		blobs = append(blobs, descs[name].Digest.String())
	}
	maps.DeleteFunc(snaps, func(_ string, there bool) bool { return !there })
	require.ElementsMatch(s.tb, want, s.leases(), "%s: leases", s.name)
	require.ElementsMatch(s.tb, slices.Collect(maps.Keys(snaps)), s.snapshots(), "%s: snapshots", s.name)
	require.ElementsMatch(s.tb, blobs, s.blobs(), "%s: blobs", s.name)
}
