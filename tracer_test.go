package cache_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/knownrun"
	loopback "github.com/layercache/cache/testutil/registry"
	"github.com/layercache/cache/testutil/tree"
)

// spans is a tracer that knows which work is going on in which.
type spans struct {
	recorder
	open map[int]cache.Event
	next int
	ends []cache.Event
	mu   sync.Mutex
}

type spanKey struct{}

// path tells which work a context belongs to, from the outside in.
func path(ctx context.Context) []cache.EventKind {
	kinds, _ := ctx.Value(spanKey{}).([]cache.EventKind)
	return kinds
}

func (s *spans) Begin(ctx context.Context, ev cache.Event) (context.Context, func(cache.Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.next
	s.next++
	s.open[n] = ev
	up := path(ctx)
	return context.WithValue(ctx, spanKey{}, append(up[:len(up):len(up)], ev.Kind)), func(end cache.Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, n)
		s.ends = append(s.ends, end)
	}
}

// TestTracer: work that takes long is told of when it begins, and ends once, with what is observed.
func TestTracer(t *testing.T) {
	reg := loopback.New(t)
	s := &spans{open: map[int]cache.Event{}}
	env := testutil.New(t, testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Observer = s }))
	s.take()
	run := knownrun.Do(t, env, reg, nil)
	want := map[cache.EventKind]int{}
	for name, c := range run.Want {
		kind, _, _ := strings.Cut(name, ".")
		switch k := cache.EventKind(kind); k {
		case cache.EventPull, cache.EventExtract, cache.EventPack, cache.EventExport, cache.EventPrune, cache.EventCollect:
			want[k] += int(c.Events)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	got, observed := map[cache.EventKind]int{}, []cache.Event{}
	for _, ev := range s.ends {
		got[ev.Kind]++
	}
	for _, ev := range s.take() {
		if want[ev.Kind] > 0 {
			observed = append(observed, ev)
		}
	}
	require.Equal(t, want, got)
	require.ElementsMatch(t, observed, s.ends)
	require.Empty(t, s.open)
}

// TestWorkGoesOnInTheTracersContext: what the cache calls for a piece of work gets the context that was made for it, within that of the work it is part
// of, and of the caller.
func TestWorkGoesOnInTheTracersContext(t *testing.T) {
	s := &spans{open: map[int]cache.Event{}}
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Observer = s }))
	reg := newRegistry()
	desc := reg.layer(t, "gzip", tree.File("f", "x"))
	var in []cache.EventKind
	reg.disturb(func(ctx context.Context, _ digest.Digest) error {
		in = path(ctx)
		return nil
	}, nil)
	dhs := cache.DescHandlers{desc.Digest: {Provider: func(session.Group) content.Provider { return reg }}}
	ref, err := env.Manager.GetByBlob(ctx, desc, nil, dhs)
	require.NoError(t, err)
	require.NoError(t, ref.Extract(context.WithValue(ctx, spanKey{}, []cache.EventKind{"caller"}), nil))
	require.Equal(t, []cache.EventKind{"caller", cache.EventExtract, cache.EventPull}, in)
	release(t, ref)
}
