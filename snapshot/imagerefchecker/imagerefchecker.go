// Package imagerefchecker tells a cache which of its records images consist of, for Prune to spare them and DiskUsage to
// mark them as shared. It is for engines that keep images in a containerd image store beside the cache, on one content store.
package imagerefchecker

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
)

// DefaultTimeout is what one call to the stores may take unless Opt says otherwise. They answer from a local
// database and local files, so this is not about slow ones but about those that hang.
const DefaultTimeout = time.Minute

// Opt says where the images are.
type Opt struct {
	// ImageStore has the images. Nil means that there are none, and nothing is referred to.
	ImageStore images.Store
	// ContentStore has their manifests. It is required with an ImageStore.
	ContentStore content.Provider
	// Namespace, if not empty, is containerd's namespace that both are asked in. Stores that know their own,
	// such as a client's or those of package snapshot/containerd, do not need it.
	Namespace string
	// Timeout bounds each call to a store, since checkers are made without a context; 0 means DefaultTimeout.
	Timeout time.Duration
}

// New returns what makes a checker for ManagerOpt.PruneRefChecker. A record is referred to if an image consists of exactly
// its layers' blobs, bottom first; with an index, if one of its manifests does, whatever its platform. What lies below a
// record that is referred to is for the manager to know.
//
// All images are read when the checker is made, so that a whole Prune sees them as they were in one moment, and Exists asks
// nobody. Its answer for a record stays the same as long as the checker lives, except that a record without
// a blob for each of its layers, for which the answer is false, is looked at again.
//
// What cannot be found out never counts as "not referred to":
//   - If the images cannot be listed, or a manifest that is there cannot be read, there is no checker but an error, which
//     ends DiskUsage or Prune before anything is deleted. Such failures pass.
//   - If what is there is damaged or cannot be understood, every record counts as referred to, and a warning names the image.
//     That does not pass by itself, so it must not keep DiskUsage, or a Prune of everything, from working.
//   - What is not in the content store is not an image's layer list: after a pull there are the manifests of the pulled
//     platform alone, and the others hold no blobs here that a record could have. The same goes for an image
//     that was deleted meanwhile. So a missing manifest refers to nothing.
//   - What is neither an index nor a manifest by its media type, such as a signature or a chart, has no layers.
func New(opt Opt) cache.ExternalRefCheckerFunc {
	return func() (cache.ExternalRefChecker, error) {
		c := &checker{known: map[string]bool{}}
		if opt.ImageStore == nil {
			return c, nil
		}
		if opt.ContentStore == nil {
			return nil, errors.Wrap(errdefs.ErrInvalidArgument, "images without a content store that has their manifests")
		}
		if opt.Timeout < 0 {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "a timeout of %s", opt.Timeout)
		}
		if opt.Timeout == 0 {
			opt.Timeout = DefaultTimeout
		}
		ctx := context.Background()
		if opt.Namespace != "" {
			ctx = namespaces.WithNamespace(ctx, opt.Namespace)
		}
		var err error
		if c.lists, c.unsure, err = layerLists(ctx, opt); err != nil {
			return nil, err
		}
		return c, nil
	}
}

// layerLists reads the layer lists of all images. unsure tells that there are images whose lists cannot be known.
func layerLists(ctx context.Context, opt Opt) (lists map[string]bool, unsure bool, err error) {
	listCtx, cancel := context.WithTimeout(ctx, opt.Timeout)
	defer cancel()
	all, err := opt.ImageStore.List(listCtx)
	if err != nil {
		return nil, false, errors.Wrap(err, "listing the images")
	}
	r := &reader{opt: opt, seen: map[digest.Digest]bool{}, lists: map[string]bool{}}
	for _, img := range all {
		err := r.image(ctx, img)
		switch {
		case errors.Is(err, errNotUnderstood):
			log.G(ctx).WithError(err).WithField("image", img.Name).
				Warn("an image cannot be understood, all records of the cache count as referred to")
			unsure = true
		case err != nil:
			return nil, false, errors.Wrapf(err, "reading image %q", img.Name)
		}
	}
	return r.lists, unsure, nil
}

// checker has the layer lists of the images of one moment.
type checker struct {
	lists  map[string]bool // never changed
	unsure bool            // there are images of which nothing is known

	mu    sync.Mutex
	known map[string]bool // answers that were given, by record
}

// Exists implements cache.ExternalRefChecker. It may be called from several goroutines.
func (c *checker) Exists(id string, blobs []digest.Digest) bool {
	if c.unsure {
		return true
	}
	if len(blobs) == 0 || slices.Contains(blobs, "") {
		return c.answered(id) // a record may get its blobs while a long prune runs, see quirk Q45
	}
	key := listKey(blobs)
	c.mu.Lock()
	defer c.mu.Unlock()
	answer, ok := c.known[id]
	if !ok {
		answer = c.lists[key]
		c.known[id] = answer
	}
	return answer
}

func (c *checker) answered(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[id]
}

// listKey is a list of blobs as one text. That of a list of valid digests, in which there are no commas, is no other list's.
func listKey(blobs []digest.Digest) string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(len(blobs)))
	for _, d := range blobs {
		b.WriteByte(',')
		b.WriteString(d.String())
	}
	return b.String()
}
