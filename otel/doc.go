// Package otelcache feeds OpenTelemetry from the events of a layer cache. It is a module of its own, so that the cache does not make its users
// depend on OpenTelemetry.
//
//	o, err := otelcache.New(otelcache.Options{}) // the global providers
//	c, err := local.Open(ctx, dir, local.Options{Observer: o})
//	stop, err := o.Watch(c)
//	defer stop()
//
// The metrics are those that Metrics lists; docs/operations.md tells what each of them is good for. Traces have a span for each pull, extraction,
// merge, packing, conversion, export, prune and garbage collection, and for each time that one of them waits for others, as a child of the
// span of the caller who wanted it; of several who share the work, of the first.
//
// IDs of records and digests of blobs are attributes of spans, and never of metrics.
package otelcache
