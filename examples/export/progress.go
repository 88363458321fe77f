package main

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layercache/cache/internal/console"
)

// phase is how far something is.
type phase int

const (
	waiting phase = iota
	packing
	packed
	writing
	written
	failed
)

func (p phase) String() string {
	return [...]string{"waiting", "packing", "packed", "writing", "written", "failed"}[p]
}

// status is how far the record is, while its blobs are made, or one of the blobs, later.
type status struct {
	// label names it: the record, or the layers by their numbers, from 1 at the bottom, and the blob.
	label string
	// read of size bytes were sent.
	read, size int64
	phase      phase
	err        error
}

// Line implements console.Item.
func (s status) Line() string {
	text := s.label + "  " + s.phase.String()
	switch s.phase {
	case writing:
		text += "  " + console.Bytes(s.read) + " of " + console.Bytes(s.size)
	case written:
		text += "  " + console.Bytes(s.size)
		if s.read == 0 && s.size > 0 {
			text += "  (was there)"
		}
	case failed:
		text += ": " + s.err.Error()
	}
	return console.Printable(text)
}

// Bar implements console.Item.
func (s status) Bar() string {
	if s.phase != writing {
		return ""
	}
	return console.Bar(s.read, s.size)
}

// InFlight implements console.Item.
func (s status) InFlight() bool { return s.phase == packing || s.phase == writing }

// meter collects how far the work is, and shows it.
type meter struct {
	view console.View
	stop func()
	once sync.Once

	mu    sync.Mutex
	items []*status
	blobs map[digest.Digest]*status
}

// newMeter begins to show. Close must be called.
func newMeter(v console.View) *meter {
	m := &meter{view: v, blobs: map[digest.Digest]*status{}}
	m.stop = console.Every(v.Interval(), m.show)
	return m
}

// show draws what moves without a change of phase, too.
func (m *meter) show() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.view.Show(m.inFlight())
}

// close shows the last state and ends. A second call does nothing.
func (m *meter) close() {
	m.once.Do(func() {
		m.stop()
		m.show()
	})
}

func (m *meter) inFlight() []console.Item {
	var all []console.Item
	for _, s := range m.items {
		if s.InFlight() {
			all = append(all, *s)
		}
	}
	return all
}

// update changes what is known of an item, which may be nil, and shows it if its phase is another one now.
func (m *meter) update(s *status, change func(s *status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s == nil {
		return
	}
	before := s.phase
	change(s)
	if s.phase != before {
		m.view.Changed(*s, m.inFlight())
	}
}

// packing tells that the blobs of a record are being made, until the returned function is called.
func (m *meter) packing(record string) func(error) {
	s := &status{label: "record " + record}
	m.mu.Lock()
	m.items = append(m.items, s)
	m.mu.Unlock()
	m.update(s, func(s *status) { s.phase = packing })
	return func(err error) {
		m.update(s, func(s *status) {
			if s.phase, s.err = packed, err; err != nil {
				s.phase = failed
			}
		})
	}
}

// expect tells which blobs will be sent. One may be several layers.
func (m *meter) expect(layers []ocispecs.Descriptor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	numbers := map[digest.Digest][]string{}
	for i, desc := range layers {
		numbers[desc.Digest] = append(numbers[desc.Digest], strconv.Itoa(i+1))
		if m.blobs[desc.Digest] == nil {
			s := &status{size: desc.Size}
			m.blobs[desc.Digest] = s
			m.items = append(m.items, s)
		}
	}
	for d, n := range numbers {
		m.blobs[d].label = "layer " + strings.Join(n, ",") + "/" + strconv.Itoa(len(layers)) + "  " + console.Short(d)
	}
}

// blob returns what is known of a blob, nil for those that are not layers.
func (m *meter) blob(d digest.Digest) *status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.blobs[d]
}

// sent tells how the work on a blob ended.
func (m *meter) sent(d digest.Digest, err error) {
	m.update(m.blob(d), func(s *status) {
		if s.phase, s.err = written, err; err != nil {
			s.phase = failed
		}
	})
}

// meteredProvider tells the meter how far each blob is read.
type meteredProvider struct {
	content.Provider
	meter *meter
}

// ReaderAt implements content.Provider.
func (p meteredProvider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := p.Provider.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	s := p.meter.blob(desc.Digest)
	p.meter.update(s, func(s *status) { s.phase = writing })
	return meteredReader{ra, p.meter, s}, nil
}

type meteredReader struct {
	content.ReaderAt
	meter  *meter
	status *status
}

// ReadAt implements io.ReaderAt.
func (r meteredReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, off)
	r.meter.update(r.status, func(s *status) { s.read = max(s.read, off+int64(n)) })
	return n, err //nolint:wrapcheck // io.EOF has to stay what it is
}
