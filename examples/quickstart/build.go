package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/usage"
)

const (
	// keyName is under which a record remembers the key of its step,
	keyName = "quickstart.key"
	// indexName and that key, under which it is found.
	indexName = "quickstart.key:"
)

// build makes the steps, or finds them, one on top of the other. It returns a ref to the last,
// which the caller has to release, and the tree that it should hold.
func build(ctx context.Context, out io.Writer, c *local.Cache, steps []step) (top cache.ImmutableRef, want tree, err error) {
	for i, s := range steps {
		ref, hit, err := buildStep(ctx, c, top, s)
		err = stderrors.Join(err, release(ctx, top)) // the new layer keeps its parent alive
		if err != nil {
			return nil, nil, errors.Wrapf(stderrors.Join(err, release(ctx, ref)), "step %q", s.name)
		}
		result := "miss"
		if hit {
			result = "hit"
		}
		fmt.Fprintf(out, "step %d/%d %s: %s\n", i+1, len(steps), s.name, result)
		top, want = ref, s.want
	}
	return top, want, nil
}

// release releases a ref, which may be nil, whether or not ctx has ended.
func release(ctx context.Context, ref cache.ImmutableRef) error {
	if ref == nil {
		return nil
	}
	return ref.Release(context.WithoutCancel(ctx))
}

func buildStep(ctx context.Context, c *local.Cache, parent cache.ImmutableRef, s step) (ref cache.ImmutableRef, hit bool, err error) {
	ref, err = find(ctx, c, s.key())
	if ref != nil || err != nil {
		return ref, err == nil, err
	}
	ref, err = makeLayer(ctx, c, parent, s)
	return ref, false, err
}

// find returns a ref to the layer with the given key, or nil if there is none.
func find(ctx context.Context, c *local.Cache, key digest.Digest) (cache.ImmutableRef, error) {
	found, err := c.Search(ctx, indexName+key.String(), false)
	if err != nil {
		return nil, err
	}
	for _, md := range found {
		ref, err := c.Get(ctx, md.ID(), nil)
		if cache.IsNotFound(err) { // pruned since
			continue
		}
		return ref, err
	}
	return nil, nil
}

// makeLayer runs the step in a new layer on parent, which may be nil.
func makeLayer(ctx context.Context, c *local.Cache, parent cache.ImmutableRef, s step) (_ cache.ImmutableRef, err error) {
	mutable, err := c.New(ctx, parent, nil, cache.WithDescription("quickstart: "+s.name))
	if err != nil {
		return nil, err
	}
	if err := withMounted(ctx, mutable, false, s.apply); err != nil {
		return nil, stderrors.Join(err, mutable.Release(context.WithoutCancel(ctx)))
	}
	ref, err := mutable.Commit(ctx) // mutable is used up if this works
	if err != nil {
		return nil, stderrors.Join(err, mutable.Release(context.WithoutCancel(ctx)))
	}
	// Only what is finalized stays when its last ref is released.
	err = ref.Finalize(ctx)
	if err == nil {
		key := s.key().String()
		err = ref.SetString(keyName, key, indexName+key)
	}
	if err != nil {
		return nil, stderrors.Join(err, release(ctx, ref))
	}
	return ref, nil
}

// withMounted calls fn with a directory that shows the ref's tree.
func withMounted(ctx context.Context, ref cache.Mountable, readonly bool, fn func(root string) error) (err error) {
	mountable, err := ref.Mount(ctx, readonly, nil)
	if err != nil {
		return err
	}
	mounter := snapshot.LocalMounter(mountable)
	root, err := mounter.Mount()
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, mounter.Unmount()) }()
	return fn(root)
}

// verify compares the mounted ref with the tree it should hold.
func verify(ctx context.Context, ref cache.ImmutableRef, want tree) error {
	return withMounted(ctx, ref, true, func(root string) error {
		have, err := scan(root, "")
		if err != nil {
			return err
		}
		var errs []error
		for _, path := range want.paths() {
			if e, ok := have[path]; !ok {
				errs = append(errs, errors.Errorf("%s is missing", path))
			} else if e != want[path] {
				errs = append(errs, errors.Errorf("%s is %v, not %v", path, e, want[path]))
			}
		}
		for _, path := range have.paths() {
			if _, ok := want[path]; !ok {
				errs = append(errs, errors.Errorf("%s should not be there", path))
			}
		}
		return stderrors.Join(errs...)
	})
}

func printRecords(ctx context.Context, out io.Writer, c *local.Cache) error {
	records, err := c.DiskUsage(ctx, usage.DiskUsageInfo{})
	if err != nil {
		return err
	}
	slices.SortFunc(records, func(a, b *usage.Info) int { return a.CreatedAt.Compare(b.CreatedAt) })
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nID\tKIND\tSIZE\tPARENTS\tUSES")
	for _, r := range records {
		kind := "immutable"
		if r.Mutable {
			kind = "mutable"
		}
		parents := strings.Join(r.Parents, ",")
		if parents == "" {
			parents = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\n", r.ID, kind, r.Size, parents, r.UsageCount)
	}
	return w.Flush()
}
