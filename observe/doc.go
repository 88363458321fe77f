// Package observe has observers of a layer cache: one that counts, for tests and for expvar, and one that passes on to others.
//
//	counters := &observe.Counters{}
//	c, err := local.Open(ctx, dir, local.Options{Observer: counters})
//	...
//	counts := counters.Snapshot()
//	hits, misses := counts.Sum("get.hit"), counts.Sum("get.miss")
//
//	expvar.Publish("layercache", observe.Var(c, counters))
//
// What the counts are called is written at Name. The module github.com/layercache/cache/otel feeds the same events to OpenTelemetry.
package observe
