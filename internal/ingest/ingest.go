// Package ingest begins the writing of blobs.
package ingest

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Store is what of a content store is needed.
type Store interface {
	content.Ingester
	Status(ctx context.Context, ref string) (content.Status, error)
}

// Pauses before another attempt: random ones below a bound that doubles.
const (
	firstBound = 16 * time.Millisecond
	lastBound  = 2048 * time.Millisecond
)

// OpenWriter begins or resumes a write, and waits while somebody else is writing under the same name. A content store says
// "unavailable" then, and says the same when it is not there at all, as one in another process may be; so it is asked about the write. An
// error to that means that there is nobody to wait for, and is returned. content.OpenWriter would wait for as long as ctx lasts.
func OpenWriter(ctx context.Context, cs Store, opts ...content.WriterOpt) (content.Writer, error) {
	var wish content.WriterOpts
	for _, opt := range opts {
		if err := opt(&wish); err != nil {
			return nil, err
		}
	}
	for bound := firstBound; ; bound = min(2*bound, lastBound) {
		w, err := cs.Writer(ctx, opts...)
		if !errdefs.IsUnavailable(err) {
			return w, err
		}
		if _, serr := cs.Status(ctx, wish.Ref); errdefs.IsUnavailable(serr) || errdefs.IsDeadlineExceeded(serr) {
			return nil, errors.Wrapf(err, "the content store does not answer (%v)", serr)
		}
		timer := time.NewTimer(rand.N(bound))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}
