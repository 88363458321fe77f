package otelcache_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/layercache/cache"
	otelcache "github.com/layercache/cache/otel"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/registry"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// everything is one event of each kind, with an error where errs is set.
func everything(errs error) (out []cache.Event) {
	for _, ev := range []cache.Event{
		{Kind: cache.EventNew, Reason: "blob", Cause: cache.CauseTree},
		{Kind: cache.EventGet, Reason: cache.ReasonMiss, Cause: cache.CauseNoProvider},
		{Kind: cache.EventRelease},
		{Kind: cache.EventCommit},
		{Kind: cache.EventReopen},
		{Kind: cache.EventFinalize},
		{Kind: cache.EventMount},
		{Kind: cache.EventPull, Reason: cache.ReasonFetched, Size: 3, Source: "localhost:5000/image"},
		{Kind: cache.EventPull, Reason: cache.ReasonShared, Size: 3, Source: "localhost:5000/image"},
		{Kind: cache.EventExtract, Size: 3},
		{Kind: cache.EventPack, Reason: "zstd", Size: 4},
		{Kind: cache.EventConvert, Reason: "estargz", Size: 5},
		{Kind: cache.EventExport, Size: 6},
		{Kind: cache.EventRemove, Reason: cache.ReasonPruned, Cause: cache.RuleMinFreeSpace, Size: 7},
		{Kind: cache.EventRemove, Reason: cache.ReasonReleased},
		{Kind: cache.EventRecover, Reason: "broken"},
		{Kind: cache.EventPrune, Records: 1, Size: 7},
		{Kind: cache.EventCollect},
		{Kind: cache.EventWait, Reason: cache.PoolPull},
		{Kind: cache.EventLeak, Reason: "immutable"},
		{Kind: "of a later version"},
	} {
		ev.ID, ev.Duration, ev.Err = "an ID", 1500*time.Millisecond, errs
		out = append(out, ev)
	}
	return out
}

// TestEveryMetricIsListed: the list has every metric that there is, with its unit and its attributes, and no other; docs/operations.md has the list.
func TestEveryMetricIsListed(t *testing.T) {
	o, s := newObserver(t)
	env := testutil.New(t, testutil.Doubles())
	stop, err := o.Watch(env.Manager)
	require.NoError(t, err)
	mut, err := env.Manager.New(t.Context(), nil, nil)
	require.NoError(t, err)
	for _, ev := range append(everything(nil), everything(errdefs.ErrUnavailable)...) {
		o.Observe(ev)
	}
	got := s.collect()
	used := map[string]map[string]bool{}
	for metric, p := range got {
		used[metric] = map[string]bool{}
		for attrs := range p {
			for _, kv := range strings.Split(attrs, ",") {
				key, _, _ := strings.Cut(kv, "=")
				used[metric][key] = true
			}
			require.NotContains(t, attrs, "an ID")
		}
	}
	for _, m := range otelcache.Metrics() {
		require.Contains(t, got, m.Name)
		for _, key := range m.Attributes {
			require.True(t, used[m.Name][key], "%s has no %s", m.Name, key)
		}
	}
	require.Len(t, got, len(otelcache.Metrics()))
	require.NoError(t, stop())
	require.NoError(t, mut.Release(t.Context()))
	require.NotContains(t, s.collect(), otelcache.MetricRecords, "nobody watches any more")

	page, err := os.ReadFile(filepath.Join("..", "docs", "operations.md"))
	require.NoError(t, err)
	require.Contains(t, string(page), otelcache.Table(), "docs/operations.md: the table of metrics is what otelcache.Table returns")
}

// TestCounts: what each event counts as, in seconds and bytes, with the attributes of the cache it is about; what failed moved no bytes.
func TestCounts(t *testing.T) {
	o, s := newObserver(t, attribute.String("a", "b"))
	for _, ev := range everything(nil) {
		o.Observe(ev)
	}
	const timed = 14 // of the events: thirteen operations and a wait
	sums, seconds := s.sums("a")
	require.InDelta(t, 1.5*timed, seconds, 1e-9)
	moved := points{"": 3 + 3 + 4 + 5 + 6} // what was shared was fetched once
	require.Equal(t, moved, sums[otelcache.MetricBlobIO])
	require.Equal(t, points{"": 7}, sums[otelcache.MetricFreed])
	require.Equal(t, points{"": 2}, sums[otelcache.MetricLookups])
	for _, ev := range everything(errdefs.ErrNotFound) {
		o.Observe(ev)
	}
	sums, seconds = s.sums("a")
	require.InDelta(t, 2*1.5*timed, seconds, 1e-9)
	require.Equal(t, moved, sums[otelcache.MetricBlobIO])
	require.Equal(t, points{"": 7}, sums[otelcache.MetricFreed])
	require.Equal(t, points{"": 4}, sums[otelcache.MetricLookups])
}

// sums adds up each counter, and all histograms. Every point must have an attribute of the key.
func (s *sink) sums(key attribute.Key) (sums collected, seconds float64) {
	s.t.Helper()
	sums = collected{}
	for _, m := range s.raw() {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, dp := range data.DataPoints {
				require.True(s.t, dp.Attributes.HasValue(key), m.Name)
				sums.add(m.Name, dp.Value)
			}
		case metricdata.Histogram[float64]:
			for _, dp := range data.DataPoints {
				require.True(s.t, dp.Attributes.HasValue(key), m.Name)
				seconds += dp.Sum
			}
		}
	}
	return sums, seconds
}

// TestErrorTypes: errors are told by their category, whatever they are wrapped in.
func TestErrorTypes(t *testing.T) {
	o, s := newObserver(t)
	for err, word := range map[error]string{
		context.Canceled: "canceled", context.DeadlineExceeded: "deadline_exceeded", cache.ErrLocked: "unavailable",
		cache.ErrVerification: "invalid_argument", cache.NeedsRemoteProviderError(nil).Unwrap(): "failed_precondition",
		errdefs.ErrNotFound: "not_found", errors.New("something else"): "_OTHER", &cache.LayerError{Err: errdefs.ErrDataLoss}: "data_loss",
	} {
		o.Observe(cache.Event{Kind: cache.EventMount, Err: errors.Wrap(err, "mounting")})
		require.EqualValues(t, 1, s.collect()[otelcache.MetricDuration]["error.type="+word+",layercache.operation=mount"], "%v", err)
	}
}

// TestAddress: hosts of origins as users write them.
func TestAddress(t *testing.T) {
	for source, want := range map[string]struct {
		host string
		port int
	}{
		"docker.io/library/alpine:3": {"docker.io", 0}, "registry.example:5000/a/b@sha256:00": {"registry.example", 5000},
		"https://mirror.example/a": {"mirror.example", 0}, "localhost/a": {"localhost", 0}, "[::1]:5000/a": {"::1", 5000}, "[::1]/a": {"::1", 0},
		"https://user:password@mirror.example/a": {"mirror.example", 0}, "https://user:pass@word@mirror.example:5000/a": {"mirror.example", 5000},
		"library/alpine": {}, "alpine": {}, "": {}, "host:port/a": {"host", 0}, "/a": {},
	} {
		host, port := otelcache.Address(source)
		require.Equal(t, want.host, host, source)
		require.Equal(t, want.port, port, source)
	}
}

// attributesOf are those of a span, by key.
func attributesOf(span sdktrace.ReadOnlySpan) map[string]string {
	out := map[string]string{}
	for _, kv := range span.Attributes() {
		out[string(kv.Key)] = kv.Value.String()
	}
	return out
}

// TestSpans: work has spans, below those of whoever wanted it, with what is known of it; one that failed says so.
func TestSpans(t *testing.T) {
	reg := registry.New(t)
	o, s := newObserver(t)
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Observer = o }))
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.spans))
	ctx, caller := tracers.Tracer("test").Start(t.Context(), "caller")
	layer := func(name string) (cache.ImmutableRef, cache.Event) {
		desc := reg.Layer(t, "gzip", tree.File(name, name))
		ref, err := env.Manager.GetByBlob(ctx, desc, nil, cache.DescHandlers{desc.Digest: {
			Provider: func(session.Group) content.Provider { return reg.Provider("image") }, Ref: "registry.example:5000/image",
		}})
		require.NoError(t, err)
		return ref, cache.Event{ID: ref.ID(), Digest: desc.Digest, Size: desc.Size}
	}
	good, about := layer("good")
	require.NoError(t, good.Extract(ctx, nil))
	spans := s.ended()
	require.Len(t, spans, 2)
	pull, extract := spans["layercache.pull"], spans["layercache.extract"]
	require.Equal(t, caller.SpanContext().SpanID(), extract.Parent().SpanID())
	require.Equal(t, extract.SpanContext().SpanID(), pull.Parent().SpanID())
	attrs := attributesOf(pull)
	require.Equal(t, about.ID, attrs[otelcache.AttrID])
	require.Equal(t, about.Digest.String(), attrs[otelcache.AttrDigest])
	require.Equal(t, "registry.example:5000/image", attrs[otelcache.AttrSource])
	require.Equal(t, [2]string{"registry.example", "5000"}, [2]string{attrs[otelcache.AttrAddress], attrs[otelcache.AttrPort]})
	require.Equal(t, "fetched", attrs[otelcache.AttrResult])
	require.Equal(t, codes.Unset, pull.Status().Code)
	require.Equal(t, about.ID, attributesOf(extract)[otelcache.AttrID])

	bad, _ := layer("bad")
	broken := errors.Wrap(errdefs.ErrPermissionDenied, "out of order")
	env.Faults.FailOp("content.Writer", broken)
	require.Error(t, bad.Extract(ctx, nil))
	env.Faults.Reset()
	spans = s.ended()
	for _, name := range []string{"layercache.pull", "layercache.extract"} {
		require.Equal(t, codes.Error, spans[name].Status().Code, name)
		require.Contains(t, spans[name].Status().Description, broken.Error())
		require.Equal(t, "permission_denied", attributesOf(spans[name])[otelcache.AttrError])
		require.Len(t, spans[name].Events(), 1)
	}
	require.NoError(t, cache.RefList{good, bad}.Release(ctx))
	require.NoError(t, env.Manager.Prune(ctx, nil, usage.PruneInfo{All: true}))
	spans = s.ended()
	require.Equal(t, "2", attributesOf(spans["layercache.prune"])[otelcache.AttrPruned])
	require.Equal(t, spans["layercache.prune"].SpanContext().SpanID(), spans["layercache.collect"].Parent().SpanID())
	caller.End()
	require.NoError(t, tracers.Shutdown(t.Context()))
}

// ended returns the spans that ended since the last call, by name.
func (s *sink) ended() map[string]sdktrace.ReadOnlySpan {
	out := map[string]sdktrace.ReadOnlySpan{}
	for _, span := range s.spans.Ended() {
		out[span.Name()] = span
	}
	s.spans.Reset()
	return out
}

// BenchmarkObserve is an event of a Get, which is the most frequent one, and a pull's with its span.
func BenchmarkObserve(b *testing.B) {
	b.Run("get", func(b *testing.B) {
		o, _ := newObserver(b)
		b.ReportAllocs()
		for b.Loop() {
			o.Observe(cache.Event{Kind: cache.EventGet, ID: "an ID", Reason: cache.ReasonHit, Cause: cache.CauseID})
		}
	})
	b.Run("nowhere", func(b *testing.B) {
		o, err := otelcache.New(otelcache.Options{MeterProvider: noop.NewMeterProvider(), TracerProvider: tracenoop.NewTracerProvider()})
		require.NoError(b, err)
		b.ReportAllocs()
		for b.Loop() {
			_, end := o.Begin(b.Context(), cache.Event{Kind: cache.EventPull})
			ev := cache.Event{Kind: cache.EventPull, Reason: cache.ReasonFetched, Size: 1}
			end(ev)
			o.Observe(ev)
		}
	})
}

// TestWatchSeveral: what several managers have that one observer watches adds up, until one of them is not watched any more.
func TestWatchSeveral(t *testing.T) {
	o, s := newObserver(t)
	var stops []func() error
	for range 2 {
		env := testutil.New(t, testutil.Doubles())
		mut, err := env.Manager.New(t.Context(), nil, nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, mut.Release(t.Context())) }()
		stop, err := o.Watch(env.Manager)
		require.NoError(t, err)
		stops = append(stops, stop)
	}
	for n := int64(2); n > 0; n-- {
		got := s.collect()
		require.Equal(t, points{"": n}, got[otelcache.MetricRefs])
		var records int64
		for _, count := range got[otelcache.MetricRecords] {
			records += count
		}
		require.Equal(t, n, records)
		require.NoError(t, stops[n-1]())
	}
}
