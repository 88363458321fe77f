package double

import (
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
)

// read returns the bytes of a blob. They are never changed.
func (d *disk) read(dgst digest.Digest) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.blobs[dgst]
	return b, ok
}

func (d *disk) dropBlob(dgst digest.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.blobs, dgst)
}

// open starts an ingest or takes up an old one, and locks it.
func (d *disk) open(ref string, total int64, now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.writes[ref]
	if w == nil {
		w = &diskWrite{total: max(total, 0), started: now, updated: now}
		d.writes[ref] = w
	}
	if w.locked {
		return errdefs.ErrUnavailable
	}
	w.locked = true
	return nil
}

func (d *disk) unlock(ref string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.writes[ref]; w != nil {
		w.locked = false
	}
}

func (d *disk) write(ref string, p []byte, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.writes[ref]
	if w == nil {
		return false
	}
	w.data, w.updated = append(w.data, p...), now
	return true
}

func (d *disk) truncate(ref string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.writes[ref]
	if w == nil {
		return false
	}
	w.data, w.updated = nil, now
	return true
}

// written returns the bytes of an ingest. They may be appended to, but not changed.
func (d *disk) written(ref string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.writes[ref]; w != nil {
		return slices.Clip(w.data)
	}
	return nil
}

func (d *disk) status(ref string) (content.Status, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.writes[ref]
	if w == nil {
		return content.Status{}, false
	}
	return content.Status{Offset: int64(len(w.data)), Total: w.total, StartedAt: w.started, UpdatedAt: w.updated}, true
}

func (d *disk) abort(ref string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.writes[ref]
	delete(d.writes, ref)
	return ok
}

// publish turns an ingest into a blob.
func (d *disk) publish(ref string, dgst digest.Digest) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.writes[ref]
	if w == nil {
		return false
	}
	delete(d.writes, ref)
	d.stored = true
	if _, ok := d.blobs[dgst]; !ok {
		d.blobs[dgst] = w.data
	}
	return true
}

// sweepContent removes all blobs and ingests but those given. It does nothing before the first blob was
// stored: containerd's content store has no directory of blobs by then, so that the walk through it fails
// before ingests have their turn, which containerd logs and forgets.
func (d *disk) sweepContent(blobs, refs map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.stored {
		return
	}
	for dgst := range d.blobs {
		if !blobs[dgst.String()] {
			delete(d.blobs, dgst)
		}
	}
	for ref := range d.writes {
		if !refs[ref] {
			delete(d.writes, ref)
		}
	}
}
