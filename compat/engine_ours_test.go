package compat

import (
	"context"
	stderrors "errors"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/usage"
)

// own is this library on a state directory, opened without a word about what is in it.
type own struct{ *local.Cache }

func openOwn(t *testing.T, dir string, opts local.Options) *own {
	t.Helper()
	c, err := local.Open(t.Context(), dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() }) // of a test that failed; else it is closed already
	return &own{c}
}

func (o *own) close() error { return o.Close() }

func (o *own) collectGarbage(ctx context.Context) error {
	_, err := o.Parts.GarbageCollect(ctx)
	return err
}

func (o *own) get(ctx context.Context, id string, lazy ...digest.Digest) (*ref, error) {
	handlers := cache.DescHandlers{}
	for _, d := range lazy {
		handlers[d] = &cache.DescHandler{}
	}
	r, err := o.Get(ctx, id, nil, handlers)
	if err != nil {
		return nil, err
	}
	return ownImmutable(r), nil
}

func (o *own) getMutable(ctx context.Context, id string) (*ref, error) {
	r, err := o.GetMutable(ctx, id)
	if err != nil {
		return nil, err
	}
	return ownMutable(r), nil
}

func (o *own) create(ctx context.Context, parent, description string, cacheMount bool) (_ *ref, err error) {
	var on cache.ImmutableRef
	if parent != "" {
		if on, err = o.Get(ctx, parent, nil, cache.NoUpdateLastUsed); err != nil {
			return nil, err
		}
		defer func() { err = stderrors.Join(err, on.Release(ctx)) }()
	}
	opts := []cache.RefOption{cache.WithDescription(description)}
	if cacheMount {
		opts = append(opts, cache.CachePolicyRetain, cache.WithRecordType(usage.TypeCacheMount))
	}
	r, err := o.New(ctx, on, nil, opts...)
	if err != nil {
		return nil, err
	}
	return ownMutable(r), nil
}

func (o *own) search(ctx context.Context, index string) (ids []string, err error) {
	found, err := o.Search(ctx, index, false)
	for _, md := range found {
		ids = append(ids, md.ID())
	}
	return ids, err
}

func (o *own) usage(ctx context.Context) (map[string]usageRow, error) {
	infos, err := o.DiskUsage(ctx, usage.DiskUsageInfo{})
	out := map[string]usageRow{}
	for _, u := range infos {
		row := usageRow{
			Mutable: u.Mutable, InUse: u.InUse, Shared: u.Shared, Size: u.Size, Created: u.CreatedAt.UnixNano(),
			Count: u.UsageCount, Parents: strings.Join(u.Parents, " "), Description: u.Description, Type: string(u.RecordType),
		}
		if u.LastUsedAt != nil {
			row.LastUsed = u.LastUsedAt.UnixNano()
		}
		out[u.ID] = row
	}
	return out, err
}

func (o *own) prune(ctx context.Context, id string) (ids []string, err error) {
	ch := make(chan usage.Info)
	done := make(chan error, 1)
	go func() {
		defer close(ch)
		done <- o.Prune(ctx, ch, usage.PruneInfo{Filter: []string{"id==" + id}})
	}()
	for u := range ch {
		ids = append(ids, u.ID)
	}
	return ids, <-done
}

// settle finds everything done: Finalize ends when its work has.
func (o *own) settle(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		_, ok := o.Parts.MetadataStore.Get(id)
		require.False(t, ok, id)
	}
}

func ownImmutable(r cache.ImmutableRef) *ref {
	return &ref{
		handle:   r,
		mount:    func(ctx context.Context, readonly bool) (mountable, error) { return r.Mount(ctx, readonly, nil) },
		finalize: r.Finalize,
		export: func(ctx context.Context, o exportOpt) ([]chain, error) {
			kind, err := codec.Parse(o.kind)
			if err != nil {
				return nil, err
			}
			remotes, err := r.GetRemotes(ctx, o.create, remote.RefConfig{Compression: compression.Config{Type: kind, Force: o.force}}, o.all, nil)
			var chains []chain
			for _, rem := range remotes {
				chains = append(chains, chain{rem.Descriptors, rem.Provider})
			}
			return chains, err
		},
	}
}

func ownMutable(r cache.MutableRef) *ref {
	return &ref{
		handle: r,
		mount:  func(ctx context.Context, readonly bool) (mountable, error) { return r.Mount(ctx, readonly, nil) },
		commit: func(ctx context.Context) (*ref, error) {
			imm, err := r.Commit(ctx)
			if err != nil {
				return nil, err
			}
			return ownImmutable(imm), nil
		},
	}
}
