package main

import "slices"

// rule forbids imports to some packages. Package patterns are relative to the module (`.`, `./a`, `./a/...`); import patterns
// are the same or full import paths, with `/...` for everything below.
type rule struct {
	name   string
	reason string   // said to whoever breaks the rule
	from   []string // whom the rule binds
	except []string // whom it does not
	tests  bool     // binds _test.go files, too
	forbid []string // what must not be imported ...
	allow  []string // ... with these exceptions
	std    bool     // `allow` and the standard library are all that may be imported; forbid is checked on top
}

var (
	inputOutput = []string{
		"os/...", "net/...", "syscall", "path/filepath", "io/fs", "io/ioutil", "database/...", "embed", "plugin",
		"golang.org/x/sys/...", "go.etcd.io/bbolt/...", "github.com/containerd/containerd/...", "github.com/containerd/continuity/...",
		"github.com/moby/sys/...",
	}
	// heavyParts are the containerd packages that an engine with its own parts must not pay for.
	heavyParts = []string{
		"github.com/containerd/containerd/v2/core/metadata/...",
		"github.com/containerd/containerd/v2/plugins/snapshots/...",
		"github.com/containerd/containerd/v2/plugins/content/local/...",
	}
	testSupport = []string{"./testutil/...", "./snapshot/snapshottest/..."}
	ownModules  = []string{"./bench/...", "./compat/..."}
	daemonTests = []string{"./containerd/daemon/..."} // a module of tests, and of the daemon that they build
)

const buildkit = "github.com/moby/buildkit/..."

// rules is the import direction of design.md section 2 and the table of the drop-in README.
var rules = []rule{
	{
		name:   "leaf packages stay leaves",
		reason: "graph, flight and the client-side types are pure memory: without I/O they can hold a mutex safely, and without this module they can be shared by clients and executors",
		from:   []string{"./internal/graph", "./internal/flight", "./session", "./progress", "./usage"},
		forbid: append([]string{"./..."}, inputOutput...),
	},
	{
		name:   "client types cost nothing",
		reason: "clients and executors of an engine import these packages; anything beyond the standard library would become their dependency",
		from:   []string{"./session", "./progress", "./usage"},
		std:    true,
	},
	{
		name:   "the plan of a prune is pure",
		reason: "what goes, and in which order, is worked out of numbers alone: without I/O, locks and clocks it can be compared with a naive re-scan thousands of times",
		from:   []string{"./internal/pruneplan"},
		std:    true,
		allow:  []string{"github.com/pkg/errors", "github.com/containerd/errdefs"},
		forbid: append([]string{"./...", "sync/...", "time"}, inputOutput...),
	},
	{
		name:   "mountable is light",
		reason: "executors import it; it may know mounts and user mappings, nothing else",
		from:   []string{"./mountable"},
		std:    true,
		allow:  []string{"github.com/containerd/containerd/v2/core/mount", "github.com/moby/sys/user"},
	},
	{
		name:   "compression and remote are light",
		reason: "exporters and solvers import these types; the codecs lie beside or below them, so that their weight is opt-in",
		from:   []string{"./compression", "./remote"},
		std:    true,
		allow:  []string{"github.com/containerd/containerd/v2/core/content", "github.com/opencontainers/image-spec/...", "./compression"},
	},
	{
		name:   "metadata sees neither snapshots nor the manager",
		reason: "the store knows keys and indexes, not what they mean; it can then be tested and opened by tools alone",
		from:   []string{"./metadata/..."},
		forbid: []string{".", "./snapshot/...", "./local/...", "github.com/containerd/containerd/v2/core/snapshots/..."},
	},
	{
		name:   "snapshot sees neither metadata nor the manager",
		reason: "the seam over snapshotters serves engines that bring their own records; a look upwards would close the circle",
		from:   []string{"./snapshot/..."},
		forbid: []string{".", "./metadata/...", "./local/...", "go.etcd.io/bbolt/..."},
		// The checker of image references makes something for the manager, lies here because BuildKit's does, and nothing here uses it.
		except: []string{"./snapshot/snapshottest/...", "./snapshot/imagerefchecker"},
	},
	{
		name:   "trees know no snapshots",
		reason: "what walks, compares and merges directories serves merges, differs and tests alike; it is given directories and knows nothing of who keeps them",
		from:   []string{"./internal/treediff", "./internal/treemerge", "./internal/overlaymounts"},
		forbid: []string{".", "./snapshot/...", "./metadata/...", "./local/...", "github.com/containerd/containerd/v2/core/snapshots/..."},
	},
	{
		name:   "BuildKit stays outside",
		reason: "the library replaces BuildKit's cache; importing it would bring back the weight and the circle, so only the comparing modules may",
		from:   []string{"./..."},
		except: ownModules,
		tests:  true,
		forbid: []string{buildkit},
	},
	{
		name:   "heavy containerd parts are wired in local/",
		reason: "core/metadata, the snapshotter plugins and the local content store are 120 packages that an engine with its own parts must not pay for; take the interfaces through ManagerOpt",
		from:   []string{"./..."},
		except: slices.Concat([]string{"./local/...", "./examples/..."}, testSupport, ownModules, daemonTests),
		forbid: heavyParts,
	},
	{
		name:   "test support stays in tests",
		reason: "doubles and assertion libraries in a program of a user would be dead weight",
		from:   []string{"./..."},
		except: slices.Concat(testSupport, ownModules, daemonTests),
		forbid: append([]string{"github.com/stretchr/testify/...", "go.uber.org/goleak", "pgregory.net/rapid", "testing/..."}, testSupport...),
	},
}

// limit is a ceiling on what importing a package drags in (bench.md row 19, linux/amd64).
type limit struct {
	pkg      string
	packages int      // non-stdlib packages in the import graph, the package itself included
	forbid   []string // must not come in, not even through others
}

var limits = []limit{
	{pkg: ".", packages: 120, forbid: append([]string{buildkit, "./local/..."}, heavyParts...)},
	{pkg: "./local", packages: 260, forbid: []string{buildkit}},
}

// heavyModules must not stand in the root go.mod, indirect ones included: test tools that need them live in nested modules.
var heavyModules = []string{
	"github.com/moby/buildkit", "github.com/moby/moby/...", "github.com/docker/docker", "github.com/docker/cli", "github.com/docker/distribution",
	"github.com/distribution/distribution/...", "github.com/google/go-containerregistry", "github.com/containerd/containerd", "github.com/containerd/nerdctl/...",
	"github.com/golangci/golangci-lint/...",
}
