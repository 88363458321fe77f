package cache

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/session"
)

// MaxRemotes is how many remotes GetRemotes returns at most. The combinations beyond it are left out, those in which the upper
// layers' blobs are other compressions first: 3 compressions of 20 layers can be combined in more ways than
// anybody could read (spec RMT-9).
const MaxRemotes = 1024

// GetRemotes returns the layers' blobs (spec RMT-1 to RMT-9).
func (r *immutableRef) GetRemotes(ctx context.Context, createIfNeeded bool, cfg remote.RefConfig, all bool, s session.Group) ([]*remote.Remote, error) {
	if cfg.Compression.Type == nil { // quirk Q80
		cfg.Compression.Type = codec.Default
	}
	if err := codec.CheckLevel(cfg.Compression); err != nil {
		return nil, errors.Wrapf(err, "exporting record %q", r.id)
	}
	if err := r.m.life.begin(); err != nil {
		return nil, errors.Wrapf(err, "exporting record %q", r.id)
	}
	defer r.m.life.end()
	giveBack, err := r.borrow()
	if err != nil {
		return nil, errors.Wrapf(err, "exporting record %q", r.id)
	}
	defer giveBack(ctx)
	ctx, working := r.m.begin(ctx, Event{Kind: EventExport, ID: r.id})
	x := &export{m: r.m, rec: r.rec, layers: graph.Layers(r.rec), cfg: cfg, src: r.m.ranked(r.source(s)), create: createIfNeeded}
	remotes, err := x.remotes(ctx, all)
	working.done(Event{Kind: EventExport, ID: r.id, Size: x.size, Err: err})
	if err != nil {
		return nil, errors.WithMessagef(err, "exporting record %q", r.id)
	}
	return remotes, nil
}

// LayerBlobs returns the blobs of a ref's layers in one compression, bottom first, and the content store that they are all in: lazy ones
// are pulled, and those of another compression are converted. It is for formats that make one more blob out of all layers, as nydus
// does. What is returned stays for as long as the ref, or the lease of the context. The ref has to be one of this package's
// own; errors are those of GetRemotes and of Unlazy.
func LayerBlobs(ctx context.Context, ref ImmutableRef, cfg compression.Config, s session.Group) ([]ocispecs.Descriptor, content.Store, error) {
	r, ok := ref.(*immutableRef)
	if !ok {
		return nil, nil, errors.Wrapf(errInvalid, "layers of a foreign ref of type %T", ref)
	}
	cfg.Force = true
	remotes, err := r.GetRemotes(ctx, true, remote.RefConfig{Compression: cfg}, false, s)
	if err != nil {
		return nil, nil, err
	}
	chain := remotes[0]
	// What has the compression already was left lazy.
	for _, desc := range chain.Descriptors {
		ra, err := chain.Provider.ReaderAt(ctx, desc)
		if err != nil {
			return nil, nil, err
		}
		if err := ra.Close(); err != nil {
			return nil, nil, errors.Wrapf(err, "closing blob %s", desc.Digest)
		}
	}
	return chain.Descriptors, r.m.opt.ContentStore, nil
}

// export is one call of GetRemotes.
type export struct {
	m      *manager
	rec    *graph.Record
	layers []*graph.Record // bottom first; a merge may repeat one
	cfg    remote.RefConfig
	src    source
	create bool
	// size is what the blobs of the first remote sum up to.
	size int64
}

// exported is a layer as it is going to be returned.
type exported struct {
	desc ocispecs.Descriptor
	// own is the record's blob, which desc may be another compression of; local says that it is in the content store.
	own   graph.Candidate
	local bool
}

func (x *export) remotes(ctx context.Context, all bool) ([]*remote.Remote, error) {
	if err := x.makeBlobs(ctx); err != nil {
		return nil, err
	}
	if err := x.m.storeChains(ctx, x.rec); err != nil {
		return nil, err
	}
	layers, err := x.describeAll(ctx)
	if err != nil {
		return nil, err
	}
	chains := [][]ocispecs.Descriptor{descriptorsOf(layers)}
	if all && !x.cfg.Compression.Force && len(layers) > 0 {
		more, err := x.combinations(ctx, layers)
		if err != nil {
			return nil, err
		}
		chains = append(chains, more...)
	}
	provider := newBlobProvider(x.m, x.src)
	var local []digest.Digest
	for _, l := range layers {
		x.size += l.desc.Size
		provider.addOwn(l.own)
		if l.local {
			local = append(local, digest.Digest(l.own.Blob.Digest))
		}
	}
	for _, chain := range chains {
		for _, desc := range chain {
			if provider.addLocal(desc) {
				local = append(local, desc.Digest)
			}
		}
	}
	if err := x.m.adopt(ctx, local...); err != nil {
		return nil, err
	}
	out := make([]*remote.Remote, len(chains))
	for i, chain := range chains {
		out[i] = &remote.Remote{Descriptors: chain, Provider: provider}
	}
	return out, nil
}

// makeBlobs sees to it that every layer has a blob, of the form asked for where that is forced (spec BLOB-1, VAR-5).
func (x *export) makeBlobs(ctx context.Context) error {
	m := x.m
	lacking := map[*graph.Record]bool{}
	for _, l := range x.layers {
		if st := m.g.Status(l); !hasBlob(st.Blob) {
			if !x.create { // quirk Q39
				return &LayerError{Record: st.Imm, Action: "exporting", Err: ErrNoBlobs}
			}
			lacking[l] = true
		}
	}
	if err := m.finalize(ctx, x.rec); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(exporters)
	seen := map[*graph.Record]bool{}
	for _, l := range x.layers {
		if seen[l] || !lacking[l] && !x.cfg.Compression.Force {
			continue
		}
		seen[l] = true
		g.Go(func() error {
			if lacking[l] {
				if err := m.pack(ctx, l, x.cfg.Compression, x.src); err != nil {
					return err
				}
			}
			if !x.cfg.Compression.Force {
				return nil
			}
			return m.ensureCompression(ctx, l, x.cfg.Compression, x.src)
		})
	}
	return g.Wait()
}

// exporters bounds how many layers one export works on at a time. What takes a processor has bounds of its own.
const exporters = 16

func hasBlob(b *graph.Blob) bool { return b != nil && b.Digest != "" }

// describeAll describes the layers as they are to be returned. What cannot be read, for it is neither local nor has a handler, is
// an error.
func (x *export) describeAll(ctx context.Context) ([]exported, error) {
	out := make([]exported, len(x.layers))
	var missing NeedsRemoteProviderError
	for i, l := range x.layers {
		e, err := x.describe(ctx, l)
		if err != nil {
			return nil, err
		}
		if d := digest.Digest(e.own.Blob.Digest); !e.local && x.src.handlers[d] == nil && !slices.Contains(missing, d) {
			missing = append(missing, d)
		}
		out[i] = e
	}
	if len(missing) > 0 {
		return nil, missing
	}
	return out, nil
}

// describe describes one layer (spec RMT-3 to RMT-6).
func (x *export) describe(ctx context.Context, l *graph.Record) (exported, error) {
	m := x.m
	st := m.g.Status(l)
	e := exported{own: graph.Candidate{Record: l, ID: st.Imm, SnapshotID: st.ImmSnapshot, Blob: st.Blob}}
	failed := func(err error) (exported, error) {
		return exported{}, &LayerError{Record: st.Imm, Digest: digest.Digest(st.Blob.Digest), Action: "exporting", Err: err}
	}
	if !isDigest(st.Blob.Digest) {
		return failed(errors.Wrapf(errInvalid, "blob digest %q", st.Blob.Digest))
	}
	desc, local, err := m.describeBlob(ctx, &e.own, x.src, x.cfg.PreferNonDistributable)
	if err != nil {
		return failed(err)
	}
	e.desc, e.local = desc, local
	var sources map[string]string
	if !local {
		sources = m.distributionSources(ctx, st.Imm, desc.Annotations)
		addAnnotations(&e.desc, sources)
	}
	if !x.cfg.Compression.Force {
		return e, nil
	}
	needs, err := x.cfg.Compression.Type.NeedsConversion(ctx, m.opt.ContentStore, e.desc)
	if err != nil || !needs {
		if err != nil {
			return failed(err)
		}
		return e, nil
	}
	variant, err := m.findVariant(ctx, e.desc, x.cfg.Compression.Type)
	if err != nil {
		return failed(errors.WithMessagef(err, "as %s", x.cfg.Compression.Type))
	}
	variant = cloneDescriptor(variant)
	addAnnotations(&variant, sources)
	e.desc, e.local = variant, true
	return e, nil
}

func descriptorsOf(layers []exported) []ocispecs.Descriptor {
	out := make([]ocispecs.Descriptor, len(layers))
	for i, l := range layers {
		out[i] = l.desc
	}
	return out
}

// combinations returns the chains whose topmost blob has the compression asked for, while each other layer's may be any that is
// local, besides its own (spec RMT-7, RMT-8). Each has descriptors of its own (quirk Q41).
func (x *export) combinations(ctx context.Context, layers []exported) ([][]ocispecs.Descriptor, error) {
	top, lower := layers[len(layers)-1], layers[:len(layers)-1]
	if !top.local {
		return nil, nil
	}
	if err := x.m.keepVariants(ctx, &top.own); err != nil {
		return nil, err
	}
	last, err := x.m.findVariant(ctx, top.desc, x.cfg.Compression.Type)
	if errors.Is(err, errNoVariant) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	choices := make([][]ocispecs.Descriptor, len(lower))
	for i, l := range lower {
		choices[i] = []ocispecs.Descriptor{l.desc}
		if !l.local {
			continue
		}
		if err := x.m.keepVariants(ctx, &l.own); err != nil {
			return nil, err
		}
		variants, err := x.m.variantsOf(ctx, l.desc.Digest)
		if err != nil {
			return nil, err
		}
		for _, v := range variants {
			if v.Digest != l.desc.Digest {
				choices[i] = append(choices[i], v)
			}
		}
	}
	var out [][]ocispecs.Descriptor
	at := make([]int, len(lower)) // counts, the lowest layer first
	for more := true; more && len(out) < MaxRemotes-1; {
		chain := make([]ocispecs.Descriptor, 0, len(layers))
		for i, c := range choices {
			chain = append(chain, cloneDescriptor(c[at[i]]))
		}
		out = append(out, append(chain, cloneDescriptor(last)))
		more = false
		for i := range at {
			if at[i]++; at[i] < len(choices[i]) {
				more = true
				break
			}
			at[i] = 0
		}
	}
	return out, nil
}

// adopt adds blobs to the lease in the context, if there is one: whoever calls with a lease keeps what he gets for as long as that lasts,
// whatever becomes of the records (spec BLOB-2, quirk Q47). The caller keeps the records meanwhile.
func (m *manager) adopt(ctx context.Context, blobs ...digest.Digest) error {
	id, ok := leases.FromContext(ctx)
	if !ok || len(blobs) == 0 {
		return nil
	}
	return m.transact(ctx, func(ctx context.Context) error {
		seen := map[digest.Digest]bool{}
		for _, d := range blobs {
			if seen[d] {
				continue
			}
			seen[d] = true
			if err := m.leaseBlob(ctx, id, d.String()); err != nil {
				return err
			}
		}
		return nil
	})
}
