package main

import (
	"context"
	stderrors "errors"
	"runtime/metrics"
	"time"

	"github.com/layercache/cache/bench/measure"
)

// meanwhile runs fn while the spare record is got and released, and nothing is done by another, at a steady pace.
func (w *worker) meanwhile(ctx context.Context, during string, fn func() error) error {
	done, result := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(done)
		result <- fn()
	}()
	nothing := make(chan []float64, 1)
	go func() {
		took, _ := measure.Paced(ctx, done, func(context.Context) error { return nil })
		nothing <- took
	}()
	took, err := measure.Paced(ctx, done, func(ctx context.Context) error { return w.GetRelease(ctx, w.spare) })
	err = stderrors.Join(err, <-result)
	none := <-nothing
	w.figures.Latency = append(w.figures.Latency, latency{
		During: during, Calls: len(took),
		P50: measure.Percentile(took, 50), P99: measure.Percentile(took, 99), Max: measure.Percentile(took, 100),
		NothingP50: measure.Percentile(none, 50), NothingP99: measure.Percentile(none, 99), NothingMax: measure.Percentile(none, 100),
	})
	return err
}

// heapEvery is how often the heap is looked at.
const heapEvery = 2 * time.Millisecond

// heapPeak tells by how much the heap grew at most while fn ran, in bytes, as far as looking often can tell.
func heapPeak(fn func() error) (float64, error) {
	before := measure.HeapInUse()
	ended, peak := make(chan struct{}), make(chan uint64, 1)
	go func() {
		highest := heapNow()
		look := time.NewTicker(heapEvery)
		defer look.Stop()
		for {
			select {
			case <-look.C:
				highest = max(highest, heapNow())
			case <-ended:
				peak <- max(highest, heapNow())
				return
			}
		}
	}()
	err := fn()
	close(ended)
	return max(0, float64(<-peak)-before), err
}

// heapNow is the size of all objects, dead ones included. Unlike runtime.ReadMemStats it stops nobody.
func heapNow() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
