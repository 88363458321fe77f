package observe

import (
	"context"
	"slices"

	"github.com/layercache/cache"
)

// Join returns an observer that passes everything on to all of the others, in their order; those that are nil are left out. With none left it is
// nil. Where one of them is a cache.Tracer the result is one, and the context goes from one tracer to the next.
func Join(observers ...cache.Observer) cache.Observer {
	all := slices.DeleteFunc(slices.Clone(observers), func(o cache.Observer) bool { return o == nil })
	if len(all) < 2 {
		if len(all) == 0 {
			return nil
		}
		return all[0]
	}
	var tracers []cache.Tracer
	for _, o := range all {
		if t, ok := o.(cache.Tracer); ok {
			tracers = append(tracers, t)
		}
	}
	if tracers == nil {
		return joined(all)
	}
	return &traced{all, tracers}
}

type joined []cache.Observer

func (j joined) Observe(ev cache.Event) {
	for _, o := range j {
		o.Observe(ev)
	}
}

type traced struct {
	joined
	tracers []cache.Tracer
}

func (t *traced) Begin(ctx context.Context, ev cache.Event) (context.Context, func(cache.Event)) {
	var ends []func(cache.Event)
	for _, tracer := range t.tracers {
		var end func(cache.Event)
		if ctx, end = tracer.Begin(ctx, ev); end != nil {
			ends = append(ends, end)
		}
	}
	if len(ends) == 0 {
		return ctx, nil
	}
	return ctx, func(ev cache.Event) {
		for _, end := range slices.Backward(ends) { // the innermost span first
			end(ev)
		}
	}
}
