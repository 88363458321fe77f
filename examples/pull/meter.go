package main

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/progress"
	"github.com/layercache/cache/snapshot"
)

// phase is how far a layer is.
type phase int

const (
	waiting phase = iota
	pulling
	pulled
	extracting
	extracted
	failed
)

func (p phase) String() string {
	return [...]string{"waiting", "pulling", "pulled", "extracting", "extracted", "failed"}[p]
}

// inFlight tells that something is going on, or will go on.
func (p phase) inFlight() bool { return p == pulling || p == pulled || p == extracting }

// status is how far one blob is. An image may have the same blob as several of its layers.
type status struct {
	digest digest.Digest
	// label names the layers by their numbers, from 1 at the bottom.
	label string
	// read of size bytes have arrived.
	read, size int64
	phase      phase

	// readers, running and unpacking count what is under way: open readers, reports that were started, and
	// extractions. opened and unpacked tell that there was one, err how the last report ended.
	readers, running, unpacking int
	opened, unpacked            bool
	err                         error
}

// Line implements console.Item.
func (s status) Line() string {
	text := "layer " + s.label + "  " + console.Short(s.digest) + "  " + s.phase.String()
	switch s.phase {
	case pulling:
		text += "  " + console.Bytes(s.read) + " of " + console.Bytes(s.size)
	case pulled, extracting, extracted:
		text += "  " + console.Bytes(s.size)
	case failed:
		text += ": " + s.err.Error()
	}
	return console.Printable(text)
}

// Bar implements console.Item.
func (s status) Bar() string {
	if s.phase != pulling {
		return ""
	}
	return console.Bar(s.read, s.size)
}

// InFlight implements console.Item.
func (s status) InFlight() bool { return s.phase.inFlight() }

// current is the phase that the rest of the status amounts to.
func (s *status) current() phase {
	here := s.opened && s.read >= s.size
	switch {
	case s.unpacking > 0, s.unpacked && s.running > 0: // in the latter case the verdict is still to come
		return extracting
	case s.readers > 0:
		return pulling
	case s.running == 0 && s.err != nil:
		return failed
	case s.unpacked:
		return extracted
	case here:
		return pulled
	case s.opened:
		return pulling // between two attempts
	}
	return waiting
}

// meter collects what the cache reports of the layers, and shows it.
type meter struct {
	view console.View
	stop func()

	mu     sync.Mutex
	layers map[digest.Digest]*status
	order  []digest.Digest
}

// newMeter begins to show the layers of an image. Close must be called.
func newMeter(img *image, v console.View) *meter {
	m := &meter{view: v, layers: map[digest.Digest]*status{}}
	numbers := map[digest.Digest][]string{}
	for i, desc := range img.layers {
		numbers[desc.Digest] = append(numbers[desc.Digest], strconv.Itoa(i+1))
		if m.layers[desc.Digest] == nil {
			m.layers[desc.Digest] = &status{digest: desc.Digest, size: desc.Size}
			m.order = append(m.order, desc.Digest)
		}
	}
	for d, n := range numbers {
		m.layers[d].label = strings.Join(n, ",") + "/" + strconv.Itoa(len(img.layers))
	}
	m.stop = console.Every(v.Interval(), m.show)
	return m
}

// show draws what moves without a change of phase, too.
func (m *meter) show() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.view.Show(m.inFlight())
}

// close shows the last state and ends.
func (m *meter) close() {
	m.stop()
	m.show()
}

// inFlight returns the layers that something is going on with, bottom first.
func (m *meter) inFlight() []console.Item {
	var all []console.Item
	for _, d := range m.order {
		if s := m.layers[d]; s.phase.inFlight() {
			all = append(all, *s)
		}
	}
	return all
}

// all returns how far every blob is, bottom first.
func (m *meter) all() []status {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []status
	for _, d := range m.order {
		all = append(all, *m.layers[d])
	}
	return all
}

// update changes what is known of a layer and shows it if its phase is another one now.
func (m *meter) update(d digest.Digest, change func(s *status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.layers[d]
	if s == nil {
		return // the cache asks for none that it was not given, but would not have to be trusted for it
	}
	before := s.phase
	change(s)
	if s.phase = s.current(); s.phase != before {
		m.view.Changed(*s, m.inFlight())
	}
}

// opened, arrived and closed are told by the provider.
func (m *meter) opened(d digest.Digest) {
	m.update(d, func(s *status) { s.readers, s.opened, s.err = s.readers+1, true, nil })
}

func (m *meter) arrived(d digest.Digest, upTo int64) {
	m.update(d, func(s *status) { s.read = max(s.read, upTo) })
}

func (m *meter) closed(d digest.Digest) {
	m.update(d, func(s *status) { s.readers-- })
}

// controller is the part of the meter that the cache reports the work on one blob to.
func (m *meter) controller(d digest.Digest) progress.Controller { return controller{m, d} }

type controller struct {
	m *meter
	d digest.Digest
}

// Start implements progress.Controller. It brackets a transfer as well as an extraction.
func (c controller) Start(ctx context.Context) (context.Context, func(error)) {
	c.m.update(c.d, func(s *status) { s.running++ })
	var once sync.Once
	return ctx, func(err error) {
		once.Do(func() {
			c.m.update(c.d, func(s *status) {
				s.running--
				switch {
				case errors.Is(err, snapshot.ErrNeedsParent):
					s.unpacked = false // it is going to be unpacked again, once the layers below are
				case err != nil:
					s.err, s.unpacked = err, false
				}
			})
		})
	}
}

// Status implements progress.Controller. Extractions are all that the cache reports so.
func (c controller) Status(_, _ string) func() {
	c.m.update(c.d, func(s *status) { s.unpacking, s.err = s.unpacking+1, nil })
	return sync.OnceFunc(func() {
		c.m.update(c.d, func(s *status) { s.unpacking, s.unpacked = s.unpacking-1, true })
	})
}

// summarize counts, after the work, the blobs that were fetched and those that were extracted, and the bytes
// that arrived.
func summarize(all []status) (fetched, unpacked int, bytes int64) {
	for _, s := range all {
		bytes += s.read
		if s.opened {
			fetched++
		}
		if s.unpacked {
			unpacked++
		}
	}
	return fetched, unpacked, bytes
}
