package otelcache_test

import (
	"context"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	otelcache "github.com/layercache/cache/otel"
)

// points are the values of a metric by their attributes, "key=value,key=value", sorted: sums of counters, counts of histograms.
type points map[string]int64

// collected is everything that a meter has, by the metrics' names.
type collected map[string]points

// sink is where the tests' metrics and spans go.
type sink struct {
	t      testing.TB
	reader *sdkmetric.ManualReader
	spans  *tracetest.SpanRecorder
}

// newObserver returns an observer whose metrics and spans are kept.
func newObserver(t testing.TB, attrs ...attribute.KeyValue) (*otelcache.Observer, *sink) {
	t.Helper()
	s := &sink{t: t, reader: sdkmetric.NewManualReader(), spans: tracetest.NewSpanRecorder()}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.reader))
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(s.spans))
	t.Cleanup(func() {
		require.NoError(t, meters.Shutdown(context.Background()))
		require.NoError(t, tracers.Shutdown(context.Background()))
	})
	o, err := otelcache.New(otelcache.Options{MeterProvider: meters, TracerProvider: tracers, Attributes: attrs})
	require.NoError(t, err)
	return o, s
}

// raw collects metrics as they are.
func (s *sink) raw() (out []metricdata.Metrics) {
	s.t.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(s.t, s.reader.Collect(s.t.Context(), &rm))
	for _, scope := range rm.ScopeMetrics {
		require.Equal(s.t, "github.com/layercache/cache/otel", scope.Scope.Name)
		out = append(out, scope.Metrics...)
	}
	return out
}

// collect collects metrics. Each must be described, by unit, instrument and attributes, in the list of them.
func (s *sink) collect() collected {
	s.t.Helper()
	known := map[string]otelcache.Metric{}
	for _, m := range otelcache.Metrics() {
		known[m.Name] = m
	}
	out := collected{}
	for _, m := range s.raw() {
		d, ok := known[m.Name]
		require.True(s.t, ok, "%s is not listed", m.Name)
		require.Equal(s.t, [2]string{d.Unit, d.Description}, [2]string{m.Unit, m.Description}, m.Name)
		p := points{}
		add := func(set attribute.Set, n int64) {
			var texts []string
			for _, kv := range set.ToSlice() {
				require.Contains(s.t, d.Attributes, string(kv.Key), m.Name)
				texts = append(texts, string(kv.Key)+"="+kv.Value.String())
			}
			sort.Strings(texts)
			p[strings.Join(texts, ",")] += n
		}
		instrument := ""
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			instrument = "up-down counter"
			if data.IsMonotonic {
				instrument = "counter"
			}
			for _, dp := range data.DataPoints {
				add(dp.Attributes, dp.Value)
			}
		case metricdata.Histogram[float64]:
			instrument = "histogram"
			for _, dp := range data.DataPoints {
				add(dp.Attributes, int64(dp.Count)) //nolint:gosec // as many as the test made
			}
		default:
			require.Fail(s.t, "unexpected data", "%s: %T", m.Name, m.Data)
		}
		require.Equal(s.t, d.Instrument, instrument, m.Name)
		out[m.Name] = p
	}
	return out
}
