package containerd

import (
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
)

// DefaultNamespace is the namespace of containerd that is used if the options name none.
const DefaultNamespace = "layercache"

// DefaultCallTimeout is the limit of a call if the options name none. A daemon under load may take seconds to sync a transaction.
const DefaultCallTimeout = 30 * time.Second

// Reach says whether the daemon's snapshot directories can be used by this process.
type Reach int

const (
	// ReachProbe finds out, by a snapshot that is made, written to and dropped.
	ReachProbe Reach = iota
	// ReachDirect takes it for granted.
	ReachDirect
	// ReachNone leaves everything to the daemon.
	ReachNone
)

// String returns "probe", "direct" or "none".
func (r Reach) String() string {
	switch r {
	case ReachDirect:
		return "direct"
	case ReachNone:
		return "none"
	case ReachProbe:
	}
	return "probe"
}

// Options say how a cache on a daemon is opened. The zero value is a good choice.
type Options struct {
	// Namespace is the namespace of containerd that everything is kept in; empty means DefaultNamespace. Others may use
	// it, too; see the package comment about buildkitd.
	Namespace string
	// Snapshotter is the name of a snapshotter of the daemon's; empty means containerd's default for the system.
	Snapshotter string
	// IdentityMapping is the user namespace that the owners of all files are stored in; nil for none.
	IdentityMapping *user.IdentityMapping
	// Reach says whether the daemon's snapshot directories can be used by this process.
	Reach Reach
	// CallTimeout limits each call whose context has no deadline, so that a daemon that hangs is told from one that works. What may take
	// long by its nature (unpacking, packing, copying a parent, collecting garbage, streams of blobs) may go on for as long as the
	// daemon answers a health check in between, each of which has this limit. 0 stands for DefaultCallTimeout, and less for no limit.
	//
	// A failed operation takes back what it made whatever became of its context, with this limit: from a daemon that hangs it may return that
	// much later than its context ends.
	CallTimeout time.Duration
	// Adopt takes records over that belong to another daemon, namespace or snapshotter, to which their layers were moved, in
	// place of [ErrBackend]. Records whose layers are not there are dropped.
	Adopt bool
	// NoSalvage makes a damaged database of records the error metadata.ErrCorrupt, instead of having what can be read of it moved to a new one; what
	// became of it then is what the Salvaged method of Parts.MetadataStore tells.
	NoSalvage bool
	// Sync has Finalize flush a layer to disk before it is stored that the layer is final, see cache.ManagerOpt.Sync. It takes directories that this
	// process can reach, on Linux, and is an invalid argument elsewhere.
	Sync bool

	// PruneRefChecker, Hooks, Observer, TrackHolders and Now are handed to the manager as they
	// are, see cache.ManagerOpt. Without a LayerContext among the hooks layers of Windows work all the same.
	PruneRefChecker cache.ExternalRefCheckerFunc
	Hooks           cache.Hooks
	Observer        cache.Observer
	TrackHolders    bool
	Now             func() time.Time
}

// complete checks the options and fills in what they leave open.
func (o *Options) complete() error {
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	if o.Snapshotter == "" {
		o.Snapshotter = defaults.DefaultSnapshotter
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = DefaultCallTimeout
	}
	if err := identifiers.Validate(o.Namespace); err != nil {
		return invalid("option Namespace: %v", err)
	}
	if err := identifiers.Validate(o.Snapshotter); err != nil {
		return invalid("option Snapshotter: %v", err)
	}
	if o.Reach < ReachProbe || o.Reach > ReachNone {
		return invalid("option Reach has the unknown value %d", int(o.Reach))
	}
	return nil
}

func invalid(format string, args ...any) error {
	return errors.Wrapf(errdefs.ErrInvalidArgument, format, args...)
}
