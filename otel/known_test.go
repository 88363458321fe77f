package otelcache_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/observe"
	otelcache "github.com/layercache/cache/otel"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/knownrun"
	"github.com/layercache/cache/testutil/registry"
)

// add counts a point; pairs are keys and values, in the order of the keys.
func (c collected) add(metric string, n int64, pairs ...string) {
	var texts []string
	for ; len(pairs) > 0; pairs = pairs[2:] {
		if pairs[1] != "" {
			texts = append(texts, pairs[0]+"="+strings.NewReplacer(" ", "_", "-", "_").Replace(pairs[1]))
		}
	}
	if c[metric] == nil {
		c[metric] = points{}
	}
	c[metric][strings.Join(texts, ",")] += n
}

// wantedOf are the metrics that the events of a run make. Only gets fail in it, which tell why by their cause.
func wantedOf(run *knownrun.Run, host, port string) collected {
	want := collected{}
	for name, n := range run.Want {
		parts := append(strings.Split(name, "."), "", "")
		kind, reason, cause := cache.EventKind(parts[0]), parts[1], parts[2]
		took := func(operation, result string) {
			want.add(otelcache.MetricDuration, n.Events, otelcache.AttrOperation, operation, otelcache.AttrResult, result)
		}
		switch kind {
		case cache.EventGet:
			want.add(otelcache.MetricLookups, n.Events, otelcache.AttrCause, cause, otelcache.AttrResult, reason)
		case cache.EventNew:
			origin := reason
			if reason == "" {
				origin = "written"
			}
			took("new", "")
			want.add(otelcache.MetricCreated, n.Events, otelcache.AttrOrigin, origin)
			if reason == "blob" {
				want.add(otelcache.MetricLookups, n.Events, otelcache.AttrCause, cause, otelcache.AttrResult, cache.ReasonMiss)
			}
		case cache.EventRemove:
			want.add(otelcache.MetricRemoved, n.Events, otelcache.AttrRule, cause, otelcache.AttrReason, reason)
			if reason == cache.ReasonPruned {
				want.add(otelcache.MetricFreed, n.Bytes, otelcache.AttrRule, cause)
			}
		case cache.EventPull:
			took("pull", reason)
			want.add(otelcache.MetricBlobIO, n.Bytes, otelcache.AttrOperation, "pull", otelcache.AttrAddress, host, otelcache.AttrPort, port)
		case cache.EventExtract:
			if reason != "" {
				took(reason, "")
				continue
			}
			took("extract", "")
			want.add(otelcache.MetricBlobIO, n.Bytes, otelcache.AttrOperation, "extract")
		case cache.EventPack:
			took("pack", "")
			want.add(otelcache.MetricBlobIO, n.Bytes, otelcache.AttrCompression, reason, otelcache.AttrOperation, "pack")
		case cache.EventExport:
			took("export", "")
			want.add(otelcache.MetricBlobIO, n.Bytes, otelcache.AttrOperation, "export")
		case cache.EventPrune:
			operation := "prune"
			if reason != "" {
				operation = "prune_dry_run"
			}
			took(operation, "")
		case cache.EventRelease:
		default:
			took(string(kind), "")
		}
	}
	return want
}

// TestMetricsOfAKnownRun: on real parts, with blobs from a registry, every metric is what is known from the script: counters as well as what there is in
// the cache, by state and type.
func TestMetricsOfAKnownRun(t *testing.T) {
	for name, opts := range map[string][]testutil.Option{"native": nil, "overlayfs": {testutil.Overlay()}} {
		t.Run(name, func(t *testing.T) {
			reg := registry.New(t)
			o, s := newObserver(t)
			counters := &observe.Counters{}
			env := testutil.New(t, append(opts, testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
				opt.Observer = observe.Join(o, counters)
			}))...)
			counters.Take()
			require.Empty(t, s.collect(), "opening an empty cache")
			stop, err := o.Watch(env.Manager)
			require.NoError(t, err)
			run := knownrun.Do(t, env, reg, func(run *knownrun.Run) {
				got, want := s.collect(), collected{}
				for _, total := range run.Full {
					attrs := []string{otelcache.AttrKind, total.Kind, otelcache.AttrState, total.State, otelcache.AttrType, string(total.RecordType)}
					want.add(otelcache.MetricRecords, int64(total.Records), attrs...)
					want.add(otelcache.MetricInUse, int64(total.InUse), attrs...)
					want.add(otelcache.MetricUnmeasured, 0, attrs...)
				}
				for metric, p := range want {
					require.Equal(t, p, got[metric], metric)
				}
				var size int64
				for _, n := range got[otelcache.MetricSize] {
					size += n
				}
				require.Equal(t, run.FullBytes, size)
				require.Equal(t, points{"": int64(env.Manager.Stats().Refs)}, got[otelcache.MetricRefs])
				require.Equal(t, points{"": int64(env.Manager.Stats().Mounts)}, got[otelcache.MetricMounts])
			})
			require.NoError(t, stop())
			host, port, _ := strings.Cut(reg.Host(), ":")
			want, got := wantedOf(run, host, port), s.collect()
			for metric, p := range want {
				require.Equal(t, p, got[metric], metric)
			}
			for metric := range got {
				require.Contains(t, want, metric, "nothing else happened")
			}
			require.Equal(t, run.Want.Events(), counters.Take().Events())
		})
	}
}
