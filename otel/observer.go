package otelcache

import (
	"context"
	"net"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/layercache/cache"
)

// scope is the instrumentation scope of metrics and spans.
const scope = "github.com/layercache/cache/otel"

// Options say where metrics and spans go. The zero value is a good choice.
type Options struct {
	// MeterProvider and TracerProvider are OpenTelemetry's global ones where they are nil. Those of package noop turn one of the two off.
	MeterProvider  metric.MeterProvider
	TracerProvider trace.TracerProvider
	// Attributes are added to every point and span, to tell the caches of a process apart.
	Attributes []attribute.KeyValue
	// Address takes the host, and the port if there is one, from cache.Event.Source, where a blob came from. Each result is an attribute of a
	// metric, so that there must not be many. Nil means Address.
	Address func(source string) (host string, port int)
}

// Observer is a cache.Observer, and a cache.Tracer, that feeds OpenTelemetry. Its methods may be called from any goroutine.
type Observer struct {
	meter   metric.Meter
	tracer  trace.Tracer
	common  []attribute.KeyValue
	address func(string) (string, int)

	lookups, created, removed, recovered, blobIO, freed, leaked metric.Int64Counter
	duration, wait                                              metric.Float64Histogram
}

var _ cache.Tracer = (*Observer)(nil)

// New makes an observer. One may serve several managers. An error is the meter's.
func New(opts Options) (*Observer, error) {
	if opts.MeterProvider == nil {
		opts.MeterProvider = otel.GetMeterProvider()
	}
	if opts.TracerProvider == nil {
		opts.TracerProvider = otel.GetTracerProvider()
	}
	if opts.Address == nil {
		opts.Address = Address
	}
	o := &Observer{
		meter: opts.MeterProvider.Meter(scope), tracer: opts.TracerProvider.Tracer(scope),
		common: opts.Attributes[:len(opts.Attributes):len(opts.Attributes)], address: opts.Address,
	}
	for name, to := range map[string]*metric.Int64Counter{
		MetricLookups: &o.lookups, MetricCreated: &o.created, MetricRemoved: &o.removed, MetricRecovered: &o.recovered,
		MetricBlobIO: &o.blobIO, MetricFreed: &o.freed, MetricLeaked: &o.leaked,
	} {
		m := described(name)
		var err error
		if *to, err = o.meter.Int64Counter(name, metric.WithUnit(m.Unit), metric.WithDescription(m.Description)); err != nil {
			return nil, errors.Wrapf(err, "metric %s", name)
		}
	}
	for name, to := range map[string]*metric.Float64Histogram{MetricDuration: &o.duration, MetricWait: &o.wait} {
		m := described(name)
		var err error
		*to, err = o.meter.Float64Histogram(name, metric.WithUnit(m.Unit), metric.WithDescription(m.Description), metric.WithExplicitBucketBoundaries(buckets...))
		if err != nil {
			return nil, errors.Wrapf(err, "metric %s", name)
		}
	}
	return o, nil
}

// buckets are the boundaries of the histograms, in seconds: a commit takes a millisecond, an image minutes.
var buckets = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}

// Observe counts an event.
func (o *Observer) Observe(ev cache.Event) {
	ctx := context.Background()
	switch ev.Kind {
	case cache.EventGet:
		o.lookups.Add(ctx, 1, o.with(AttrResult, ev.Reason, AttrCause, ev.Cause))
	case cache.EventNew:
		o.observeNew(ctx, ev)
	case cache.EventRemove:
		o.removed.Add(ctx, 1, o.withError(ev, AttrReason, ev.Reason, AttrRule, ev.Cause))
		if ev.Reason == cache.ReasonPruned && ev.Err == nil {
			o.freed.Add(ctx, ev.Size, o.with(AttrRule, ev.Cause))
		}
	case cache.EventRecover:
		reason := ev.Reason
		if reason == cache.ReasonAgain {
			reason = "again"
		}
		o.recovered.Add(ctx, 1, o.with(AttrReason, reason))
	case cache.EventLeak:
		o.leaked.Add(ctx, 1, o.with(AttrRef, ev.Reason))
	case cache.EventWait:
		o.wait.Record(ctx, ev.Duration.Seconds(), o.withError(ev, AttrPool, ev.Reason))
	case cache.EventPull:
		o.took(ctx, ev, AttrResult, ev.Reason)
		if ev.Reason == cache.ReasonFetched {
			o.moved(ctx, ev)
		}
	case cache.EventExtract, cache.EventExport:
		o.took(ctx, ev)
		o.moved(ctx, ev)
	case cache.EventPack, cache.EventConvert:
		o.took(ctx, ev)
		o.moved(ctx, ev, AttrCompression, ev.Reason)
	case cache.EventCommit, cache.EventReopen, cache.EventFinalize, cache.EventMount, cache.EventPrune, cache.EventCollect:
		o.took(ctx, ev)
	case cache.EventRelease:
	}
}

// observeNew counts a record that was made. One that GetByBlob had to make is a lookup that found nothing.
func (o *Observer) observeNew(ctx context.Context, ev cache.Event) {
	origin := ev.Reason
	if origin == "" {
		origin = "written"
	}
	o.created.Add(ctx, 1, o.withError(ev, AttrOrigin, origin))
	if ev.Reason == "blob" {
		cause := ev.Cause
		if ev.Err != nil {
			cause = cache.CauseFailed
		}
		o.lookups.Add(ctx, 1, o.with(AttrResult, cache.ReasonMiss, AttrCause, cause))
	}
	o.took(ctx, ev)
}

// took records a duration.
func (o *Observer) took(ctx context.Context, ev cache.Event, attrs ...string) {
	o.duration.Record(ctx, ev.Duration.Seconds(), o.withError(ev, append([]string{AttrOperation, operation(ev)}, attrs...)...))
}

// moved counts the bytes of a blob, if there is one.
func (o *Observer) moved(ctx context.Context, ev cache.Event, attrs ...string) {
	if ev.Err != nil || ev.Size == 0 {
		return
	}
	attrs = append([]string{AttrOperation, operation(ev)}, attrs...)
	set := o.attributes(attrs...)
	o.blobIO.Add(ctx, ev.Size, metric.WithAttributes(append(set, o.from(ev)...)...))
}

// operation is what an event is about, as metrics and spans call it.
func operation(ev cache.Event) string {
	switch {
	case ev.Kind == cache.EventExtract && ev.Reason != "":
		return ev.Reason // a merge or a diff
	case ev.Kind == cache.EventPrune && ev.Reason == cache.ReasonDryRun:
		return "prune_dry_run"
	}
	return string(ev.Kind)
}

func (o *Observer) with(attrs ...string) metric.MeasurementOption {
	return metric.WithAttributes(o.attributes(attrs...)...)
}

// withError is with that tells the category of an error, too.
func (o *Observer) withError(ev cache.Event, attrs ...string) metric.MeasurementOption {
	set := o.attributes(attrs...)
	if ev.Err != nil {
		set = append(set, attribute.String(AttrError, category(ev.Err)))
	}
	return metric.WithAttributes(set...)
}

// attributes are pairs of keys and values; what is empty is left out.
func (o *Observer) attributes(pairs ...string) []attribute.KeyValue {
	set := o.common
	for ; len(pairs) > 0; pairs = pairs[2:] {
		if pairs[1] != "" {
			set = append(set, attribute.String(pairs[0], word(pairs[1])))
		}
	}
	return set
}

// word is a value as OpenTelemetry's conventions write them.
func word(s string) string { return words.Replace(s) }

var words = strings.NewReplacer(" ", "_", "-", "_")

// from tells where a blob comes from.
func (o *Observer) from(ev cache.Event) (set []attribute.KeyValue) {
	if ev.Source == "" {
		return nil
	}
	host, port := o.address(ev.Source)
	if host != "" {
		set = append(set, attribute.String(AttrAddress, host))
	}
	if port != 0 {
		set = append(set, attribute.Int(AttrPort, port))
	}
	return set
}

// Address takes the host and the port from a name such as "registry.example:5000/image@sha256:..." or "https://mirror.example/image". A name that
// does not begin with a host is one of Docker Hub's, or none at all; it gives an empty host.
func Address(source string) (host string, port int) {
	if _, after, ok := strings.Cut(source, "://"); ok {
		source = after
	}
	first, _, ok := strings.Cut(source, "/")
	first = first[strings.LastIndexByte(first, '@')+1:] // whose password it is is nobody's business
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" {
		return "", 0
	}
	host, text, err := net.SplitHostPort(first)
	if err != nil {
		return strings.Trim(first, "[]"), 0
	}
	if port, err = strconv.Atoi(text); err != nil {
		return host, 0
	}
	return host, port
}

// category is the category of an error in a word.
func category(err error) string {
	for _, c := range []struct {
		is   func(error) bool
		word string
	}{
		{errdefs.IsCanceled, "canceled"},
		{errdefs.IsDeadlineExceeded, "deadline_exceeded"},
		{errdefs.IsNotFound, "not_found"},
		{errdefs.IsAlreadyExists, "already_exists"},
		{errdefs.IsInvalidArgument, "invalid_argument"},
		{errdefs.IsFailedPrecondition, "failed_precondition"},
		{errdefs.IsUnavailable, "unavailable"},
		{errdefs.IsResourceExhausted, "resource_exhausted"},
		{errdefs.IsPermissionDenied, "permission_denied"},
		{errdefs.IsUnauthorized, "unauthorized"},
		{errdefs.IsDataLoss, "data_loss"},
		{errdefs.IsNotImplemented, "not_implemented"},
	} {
		if c.is(err) {
			return c.word
		}
	}
	return "_OTHER"
}
