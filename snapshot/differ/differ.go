package differ

import (
	"archive/tar"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// ErrNotOverlay reports that CompareUpper cannot tell the layer from the mounts. It is also errdefs' "failed precondition".
var ErrNotOverlay = errors.WithMessage(errdefs.ErrFailedPrecondition, "the mounts are not those of an overlay and what is below its topmost layer")

// Differ packs layers. It is safe for concurrent use.
type Differ struct {
	cs     content.Store
	layout Layout
}

var _ diff.Comparer = (*Differ)(nil)

// Option changes what New returns.
type Option func(*Differ)

// Layout is a form of archives other than that of Linux layers. The zero value changes nothing.
type Layout struct {
	// First are the entries that each archive begins with, none of which has content.
	First []tar.Header
	// Entry changes an entry before it is written. It must not change the size. It is called from one goroutine at a time for
	// each archive, but for several archives at once.
	Entry func(*tar.Header)
}

// WithLayout makes a Differ write archives of another form.
func WithLayout(l Layout) Option { return func(d *Differ) { d.layout = l } }

// New returns a Differ that writes blobs into cs, which stays the caller's.
func New(cs content.Store, opts ...Option) *Differ {
	d := &Differ{cs: cs}
	for _, opt := range opts {
		if opt != nil {
			opt(d)
		}
	}
	return d
}
