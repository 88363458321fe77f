package local

import (
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/sys/user"

	"github.com/layercache/cache"
)

// The names of the snapshotters that this package can make itself.
const (
	// Overlayfs stacks layers by mounting them. It exists on Linux and needs CAP_SYS_ADMIN, if only
	// that of a user namespace.
	Overlayfs = "overlayfs"
	// Native gives each layer a full copy of its parent. It works everywhere and without privileges.
	Native = "native"
)

// Options say how a directory is opened. The zero value is a good choice.
type Options struct {
	// Snapshotter is [Overlayfs], [Native], or the name of what NewSnapshotter makes. Empty means
	// the one that the directory was made with; for a new one Overlayfs if a trial mount in it
	// works, else Native.
	Snapshotter string
	// NewSnapshotter, if set, makes a snapshotter of the caller's whose data is below root. It is
	// closed together with the parts. Its name, Snapshotter, must then be given, since leases
	// refer to snapshots by it.
	NewSnapshotter func(root string) (snapshots.Snapshotter, error)
	// QuickSnapshots tells that all writing calls of the caller's snapshotter take a short time
	// that does not depend on the size of a layer. They then share transactions with the lease
	// calls they belong to, as those of Overlayfs do, which saves writes to disk.
	QuickSnapshots bool
	// WrapSnapshotter, if set, is called once with the snapshotter that was made, and what it returns
	// takes its place below containerd's metadata: to trace its calls, say. It must pass every call
	// on, Cleanup included, and is closed in the snapshotter's stead.
	WrapSnapshotter func(snapshots.Snapshotter) snapshots.Snapshotter
	// IdentityMapping is the user namespace that the owners of all files are stored in; nil for none.
	// It must not be changed afterwards, and should be the same whenever a directory is opened.
	IdentityMapping *user.IdentityMapping
	// SquashOwners makes the files of unpacked layers belong to the user of the process, and leaves out what takes a
	// privilege, see apply.SquashOwners. Without it a process that may not give files away cannot unpack
	// a layer that has files of others. Records whose trees differ from their layers for this reason say so under the
	// key "layercache.squashed".
	SquashOwners bool

	// MustExist makes a directory without a cache the error [ErrNoCache], instead of making one.
	MustExist bool
	// NoSalvage makes a damaged database of records the error metadata.ErrCorrupt, instead of having
	// what can be read of it moved to a new one, see Parts.Salvaged.
	NoSalvage bool

	// Sync has Finalize flush a layer to disk before it is stored that the layer is final. Without it that happens within
	// a minute, and on Close; what the machine lost before is dropped at the next Open. It works on Linux only, and is an
	// invalid argument elsewhere, where nothing is known of what reached the disk. See cache.ManagerOpt.SyncFS.
	Sync bool

	// Reserve is how many bytes of the disk a file in the directory keeps back, so that a prune can write its books when the disk is
	// full. 0 stands for 8 MiB, and less for none.
	Reserve int64

	// NoBackgroundGC turns off the garbage collection that Open starts.
	NoBackgroundGC bool

	// PruneRefChecker, Hooks, Observer, TrackHolders and Now are handed to the manager as they
	// are, see cache.ManagerOpt. Without a LayerContext among the hooks layers of Windows work all the same.
	PruneRefChecker cache.ExternalRefCheckerFunc
	Hooks           cache.Hooks
	Observer        cache.Observer
	TrackHolders    bool
	Now             func() time.Time
}

func (o *Options) validate() error {
	switch {
	case o.NewSnapshotter != nil && o.Snapshotter == "":
		return invalid("option NewSnapshotter requires the snapshotter's name in option Snapshotter")
	case o.NewSnapshotter != nil:
		return nil
	case o.QuickSnapshots:
		return invalid("option QuickSnapshots is about a snapshotter given by option NewSnapshotter")
	case o.Snapshotter != "" && o.Snapshotter != Overlayfs && o.Snapshotter != Native:
		return invalid("snapshotter %q is unknown, option NewSnapshotter is needed to make it", o.Snapshotter)
	}
	return nil
}
