package otelcache

import (
	"context"

	"github.com/pkg/errors"
	"go.opentelemetry.io/otel/metric"

	"github.com/layercache/cache/observe"
)

// Watch has the metrics that say what a manager has asked for whenever metrics are collected, until stop is called, which must be before the
// manager is of no use any more. Each time it looks at all records, in memory; nothing is measured for it. What several managers have
// adds up, unless they are watched by observers with Options.Attributes of their own. An error is the meter's.
func (o *Observer) Watch(m observe.Inspected) (stop func() error, err error) {
	observables := map[string]metric.Int64ObservableUpDownCounter{}
	for _, name := range []string{MetricRecords, MetricInUse, MetricUnmeasured, MetricSize, MetricRefs, MetricMounts} {
		d := described(name)
		c, err := o.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(d.Unit), metric.WithDescription(d.Description))
		if err != nil {
			return nil, errors.Wrapf(err, "metric %s", name)
		}
		observables[name] = c
	}
	all := make([]metric.Observable, 0, len(observables))
	for _, c := range observables {
		all = append(all, c)
	}
	common := metric.WithAttributes(o.common...)
	r, err := o.meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		state := observe.StateOf(m, nil)
		to.ObserveInt64(observables[MetricRefs], int64(state.Stats.Refs), common)
		to.ObserveInt64(observables[MetricMounts], int64(state.Stats.Mounts), common)
		for _, t := range state.Totals {
			set := metric.WithAttributes(o.attributes(AttrState, t.State, AttrKind, t.Kind, AttrType, string(t.RecordType))...)
			to.ObserveInt64(observables[MetricRecords], int64(t.Records), set)
			to.ObserveInt64(observables[MetricInUse], int64(t.InUse), set)
			to.ObserveInt64(observables[MetricUnmeasured], int64(t.Unmeasured), set)
			to.ObserveInt64(observables[MetricSize], t.Bytes, set)
		}
		return nil
	}, all...)
	if err != nil {
		return nil, errors.Wrap(err, "watching a cache")
	}
	return func() error { return errors.Wrap(r.Unregister(), "no longer watching a cache") }, nil
}
