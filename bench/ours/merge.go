package ours

import (
	"context"
	stderrors "errors"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/bench/image"
)

// NewTree makes a final layer without parent that fill has written.
func (c *Cache) NewTree(ctx context.Context, fill func(dir string) error) (image.Ref, error) {
	mut, err := c.New(ctx, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := write(ctx, mut, fill); err != nil {
		return nil, stderrors.Join(err, mut.Release(ctx))
	}
	imm, err := mut.Commit(ctx)
	if err != nil {
		return nil, stderrors.Join(err, mut.Release(ctx))
	}
	if err := imm.Finalize(ctx); err != nil {
		return nil, stderrors.Join(err, imm.Release(ctx))
	}
	return ref{imm}, nil
}

func write(ctx context.Context, mut cache.MutableRef, fill func(dir string) error) (err error) {
	mountable, err := mut.Mount(ctx, false, nil)
	if err != nil {
		return err
	}
	mounts, release, err := mountable.Mount()
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, release()) }()
	return mount.WithTempMount(ctx, mounts, fill)
}

// MergeTrees merges refs of this cache. Nothing is done before the result is extracted.
func (c *Cache) MergeTrees(ctx context.Context, parents []image.Ref) (image.Ref, error) {
	list := make([]cache.ImmutableRef, len(parents))
	for i, p := range parents {
		own, ok := p.(ref)
		if !ok {
			return nil, errors.Errorf("a ref of another cache: %T", p)
		}
		list[i] = own.ImmutableRef
	}
	merged, err := c.Merge(ctx, list, nil)
	if err != nil {
		return nil, err
	}
	return ref{merged}, nil
}

// DiffTrees is what makes lower into upper, refs of this cache. Nothing is done before the result is extracted.
func (c *Cache) DiffTrees(ctx context.Context, lower, upper image.Ref) (image.Ref, error) {
	l, okLower := lower.(ref)
	u, okUpper := upper.(ref)
	if !okLower || !okUpper {
		return nil, errors.Errorf("refs of another cache: %T, %T", lower, upper)
	}
	diff, err := c.Diff(ctx, l.ImmutableRef, u.ImmutableRef, nil)
	if err != nil {
		return nil, err
	}
	return ref{diff}, nil
}
