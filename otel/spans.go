package otelcache

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/layercache/cache"
)

// Attributes of spans only: there may be any number of values.
const (
	// AttrID is the record's ID.
	AttrID = "layercache.record.id"
	// AttrDigest is the blob's digest and AttrBlobSize its length in bytes.
	AttrDigest   = "layercache.blob.digest"
	AttrBlobSize = "layercache.blob.size"
	// AttrSource is where a blob comes from, as the cache's user calls it.
	AttrSource = "layercache.source"
	// AttrPruned is how many records a prune removed, and AttrFreed the bytes that came free with them.
	AttrPruned = "layercache.prune.records"
	AttrFreed  = "layercache.prune.bytes"
)

// Begin opens a span, which the function that it returns ends.
func (o *Observer) Begin(ctx context.Context, ev cache.Event) (context.Context, func(cache.Event)) {
	ctx, span := o.tracer.Start(ctx, "layercache."+operation(ev), trace.WithAttributes(o.ofSpan(ev)...))
	if !span.IsRecording() {
		return ctx, func(cache.Event) { span.End() }
	}
	return ctx, func(ev cache.Event) {
		span.SetAttributes(o.ofSpan(ev)...)
		if ev.Err != nil {
			span.RecordError(ev.Err)
			span.SetAttributes(attribute.String(AttrError, category(ev.Err)))
			span.SetStatus(codes.Error, ev.Err.Error())
		}
		span.End()
	}
}

// ofSpan is what is known of the work by now.
func (o *Observer) ofSpan(ev cache.Event) []attribute.KeyValue {
	set := o.attributes(AttrOperation, operation(ev))
	for key, value := range map[string]string{AttrID: ev.ID, AttrDigest: ev.Digest.String(), AttrSource: ev.Source} {
		if value != "" {
			set = append(set, attribute.String(key, value))
		}
	}
	set = append(set, o.from(ev)...)
	switch ev.Kind { //nolint:exhaustive // the others have nothing of their own
	case cache.EventPrune:
		return append(set, attribute.Int(AttrPruned, ev.Records), attribute.Int64(AttrFreed, ev.Size))
	case cache.EventWait:
		return append(set, attribute.String(AttrPool, word(ev.Reason)))
	case cache.EventPack, cache.EventConvert:
		set = append(set, attribute.String(AttrCompression, word(ev.Reason)))
	case cache.EventPull:
		if ev.Reason != "" {
			set = append(set, attribute.String(AttrResult, word(ev.Reason)))
		}
	}
	if ev.Size != 0 {
		set = append(set, attribute.Int64(AttrBlobSize, ev.Size))
	}
	return set
}
