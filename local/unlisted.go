package local

import (
	"cmp"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	confs "github.com/containerd/continuity/fs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/usage"
)

// addUnlisted adds to what the parts list what is there all the same, sorted as cache.Inspector says.
func (p *Parts) addUnlisted(ctx context.Context, listed []usage.Overhead) ([]usage.Overhead, error) {
	if err := p.running.begin(); err != nil {
		return nil, err
	}
	defer p.running.end()
	out := slices.Clone(listed)
	for _, look := range []func(context.Context) ([]usage.Overhead, error){
		p.unlistedSnapshots, p.unlistedBlobs, p.unlistedIngests, p.strayTrees, p.strayFiles,
	} {
		found, err := look(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	slices.SortFunc(out, func(a, b usage.Overhead) int {
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
	})
	return out, nil
}

// unlistedSnapshots are those that the snapshotter has and the cache's namespace has not.
func (p *Parts) unlistedSnapshots(ctx context.Context) ([]usage.Overhead, error) {
	known := map[string]bool{}
	err := p.raw.View(func(tx *bolt.Tx) error {
		forEachBucket(backendBucket(tx, namespace, "snapshots", p.SnapshotterName), func(_ []byte, row *bolt.Bucket) bool {
			known[string(row.Get([]byte("name")))] = true
			return true
		})
		return nil
	})
	if err != nil {
		return nil, errors.WithStack(err)
	}
	var names []string
	err = p.reading.trees.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if !known[info.Name] {
			names = append(names, info.Name)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Wrap(err, "list snapshots")
	}
	var out []usage.Overhead
	for _, name := range names {
		u, err := p.reading.trees.Usage(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, usage.Overhead{Kind: usage.OverheadSnapshot, Name: name, Size: u.Size})
	}
	return out, nil
}

// unlistedBlobs are those on disk that the cache's namespace has not.
func (p *Parts) unlistedBlobs(ctx context.Context) ([]usage.Overhead, error) {
	known := map[digest.Digest]bool{}
	if err := p.ContentStore.Walk(ctx, func(info content.Info) error {
		known[info.Digest] = true
		return nil
	}); err != nil {
		return nil, errors.Wrap(err, "list blobs")
	}
	var out []usage.Overhead
	err := p.reading.blobs.Walk(ctx, func(info content.Info) error {
		if !known[info.Digest] {
			out = append(out, usage.Overhead{Kind: usage.OverheadBlob, Name: info.Digest.String(), Size: info.Size})
		}
		return nil
	})
	return out, errors.Wrap(err, "list blobs on disk")
}

// unlistedIngests are transfers on disk that the cache's namespace does not know.
func (p *Parts) unlistedIngests(ctx context.Context) ([]usage.Overhead, error) {
	known, err := p.ingestDirs()
	if err != nil {
		return nil, err
	}
	root := filepath.Join(p.Dir, contentDir, "ingest")
	names, err := readNames(root)
	if err != nil {
		return nil, err
	}
	var out []usage.Overhead
	for _, name := range names {
		if known[name] {
			continue
		}
		o := usage.Overhead{Kind: usage.OverheadStray, Name: filepath.Join(root, name)}
		if st, err := p.reading.blobs.status(name); err == nil {
			o = usage.Overhead{Kind: usage.OverheadIngest, Name: st.Ref, Size: st.Offset}
		} else if o.Size, err = sizeOf(ctx, o.Name); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// ingestDirs are the names of the directories of the transfers that containerd's metadata have in the cache's namespace.
func (p *Parts) ingestDirs() (map[string]bool, error) {
	dirs := map[string]bool{}
	err := p.raw.View(func(tx *bolt.Tx) error {
		forEachBucket(backendBucket(tx, namespace, "content", "ingests"), func(_ []byte, row *bolt.Bucket) bool {
			dirs[digest.FromBytes(row.Get([]byte("ref"))).Encoded()] = true
			return true
		})
		return nil
	})
	return dirs, errors.WithStack(err)
}

// strayTrees are the directories of snapshots that the snapshotter does not know: half made, or half deleted.
func (p *Parts) strayTrees(ctx context.Context) ([]usage.Overhead, error) {
	known, err := p.reading.trees.numbers(ctx)
	if err != nil {
		return nil, errors.Wrap(err, "list snapshots")
	}
	names, err := readNames(p.reading.trees.dir)
	if err != nil {
		return nil, err
	}
	var out []usage.Overhead
	for _, name := range names {
		if _, ok := known[name]; ok {
			continue
		}
		path := filepath.Join(p.reading.trees.dir, name)
		size, err := sizeOf(ctx, path)
		if err != nil {
			return nil, err
		}
		out = append(out, usage.Overhead{Kind: usage.OverheadStray, Name: path, Size: size})
	}
	return out, nil
}

// strayFiles are the databases that were damaged and kept.
func (p *Parts) strayFiles(context.Context) ([]usage.Overhead, error) {
	names, err := readNames(p.Dir)
	if err != nil {
		return nil, err
	}
	var out []usage.Overhead
	for _, name := range names {
		if !strings.HasPrefix(name, recordsDB+".") {
			continue
		}
		path := filepath.Join(p.Dir, name)
		st, err := os.Lstat(path)
		if err != nil {
			return nil, errors.WithStack(err)
		}
		out = append(out, usage.Overhead{Kind: usage.OverheadStray, Name: path, Size: st.Size()})
	}
	return out, nil
}

// sizeOf is what a file or directory takes up.
func sizeOf(ctx context.Context, path string) (int64, error) {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, errors.WithStack(err)
	}
	if !st.IsDir() {
		return st.Size(), nil
	}
	du, err := confs.DiskUsage(ctx, path)
	return du.Size, errors.Wrapf(err, "measure %s", path)
}
