package snapshot

import (
	"context"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// DetachedApplier is an applier that can unpack a layer before the layers below it are there. The cache
// unpacks chains in parallel where its applier is one and the snapshotter can rebase (Capabilities.Rebase).
type DetachedApplier interface {
	diff.Applier
	// ApplyDetached unpacks the layer of desc into dir, an empty directory that is going to be the upper
	// directory of an overlay: what the layer deletes is written the way overlayfs marks it. The
	// result is what Apply returns, and the options are honoured as there.
	//
	// A layer that cannot be unpacked without what lies below it (a hard link into a lower layer, a file whose
	// directory the layer does not list), or a process that cannot write such marks, is ErrNeedsParent. Then, and
	// with any other error, dir holds no more than garbage.
	ApplyDetached(ctx context.Context, desc ocispecs.Descriptor, dir string, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error)
}

// ErrNeedsParent reports that a layer has to be unpacked on top of its parent. It is also errdefs' "failed precondition".
var ErrNeedsParent = errors.WithMessage(errdefs.ErrFailedPrecondition, "the layer needs its parent to be unpacked")

// AnnotationSquashed is on the descriptor that an applier returns, with the value "true", if the tree it made has other owners,
// modes or files than the layer says, because the process lacks the right to make them. The cache puts it as a label
// on the snapshot.
const AnnotationSquashed = "layercache.io/squashed"
