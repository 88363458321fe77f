package cache

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/internal/graph"
)

// This file finds and makes the other compressions of layers' blobs, their variants (spec 4.4).

// errNoVariant says that a layer has no local blob of a compression.
var errNoVariant error = &kindError{"no blob of the wanted compression", errdefs.ErrNotFound}

// variantsOf returns all blobs that are linked to a local one, which is among them if it is described itself. The order
// is the same each time. A blob that is absent has none (spec VAR-3).
func (m *manager) variantsOf(ctx context.Context, of digest.Digest) ([]ocispecs.Descriptor, error) {
	var out []ocispecs.Descriptor
	err := m.walkVariants(ctx, of, func(info content.Info) {
		if desc, ok := variant(info); ok {
			out = append(out, desc)
		}
	})
	return out, err
}

// partsOfBlob returns a record's own blob and its variants, each once; the own one comes first if it is local.
// Others that the blobs refer to are not the record's (spec SIZE-1).
func (m *manager) partsOfBlob(ctx context.Context, own digest.Digest) (parts []graph.Part, err error) {
	err = m.walkVariants(ctx, own, func(info content.Info) {
		if _, described := variant(info); described || info.Digest == own {
			parts = append(parts, graph.Part{ID: info.Digest.String(), Size: info.Size})
		}
	})
	return parts, err
}

// walkVariants calls fn for a blob and, depth first, for those that labels lead to, each once. What is absent ends a branch.
func (m *manager) walkVariants(ctx context.Context, from digest.Digest, fn func(content.Info)) error {
	return walkLinks(from, func(d digest.Digest) (info content.Info, local bool, err error) {
		info, err = m.opt.ContentStore.Info(ctx, d)
		if errdefs.IsNotFound(err) {
			return info, false, nil
		}
		return info, true, errors.Wrapf(err, "looking for blob %s", d)
	}, fn)
}

// walkLinks is walkVariants on what look tells of each blob.
func walkLinks(from digest.Digest, look func(digest.Digest) (info content.Info, local bool, err error), fn func(content.Info)) error {
	seen := map[digest.Digest]bool{from: true} // links go both ways
	stack := []digest.Digest{from}
	for len(stack) > 0 {
		info, local, err := look(stack[len(stack)-1])
		if err != nil {
			return err
		}
		stack = stack[:len(stack)-1]
		if !local {
			continue
		}
		fn(info)
		for _, to := range slices.Backward(linksOf(info)) {
			if !seen[to] {
				seen[to] = true
				stack = append(stack, to)
			}
		}
	}
	return nil
}

// linksOf lists the blobs that a blob's labels say to be of the same layer, in the order of the labels (spec VAR-1).
func linksOf(info content.Info) []digest.Digest {
	var out []digest.Digest
	for _, label := range slices.Sorted(maps.Keys(info.Labels)) {
		if to := info.Labels[label]; strings.HasPrefix(label, labelBlobRef) && isDigest(to) {
			out = append(out, digest.Digest(to))
		}
	}
	return out
}

// linked tells whether a blob refers to others of its layer.
func linked(info content.Info) bool {
	return slices.ContainsFunc(linksOf(info), func(to digest.Digest) bool { return to != info.Digest })
}

// variant describes a blob by its labels, if they do.
func variant(info content.Info) (ocispecs.Descriptor, bool) {
	mediaType, annotations, _ := description(info)
	return ocispecs.Descriptor{MediaType: mediaType, Digest: info.Digest, Size: info.Size, Annotations: annotations}, mediaType != ""
}

// findVariant returns the first of a blob and its variants that has a compression; desc describes the blob. If
// there is none, or the blob is not local, that is errNoVariant (spec VAR-4).
func (m *manager) findVariant(ctx context.Context, desc ocispecs.Descriptor, kind compression.Type) (ocispecs.Descriptor, error) {
	var choices []ocispecs.Descriptor
	err := m.walkVariants(ctx, desc.Digest, func(info content.Info) {
		if info.Digest == desc.Digest {
			choices = append(choices, desc)
		}
		if v, described := variant(info); described {
			choices = append(choices, v)
		}
	})
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	for _, v := range choices {
		needs, err := kind.NeedsConversion(ctx, m.opt.ContentStore, v)
		if err != nil {
			return ocispecs.Descriptor{}, err
		}
		if !needs {
			return v, nil
		}
	}
	return ocispecs.Descriptor{}, errNoVariant
}

// keepVariants has the record's lease on variants keep those that a record's local blob is linked to. A lease of another record's may have been
// all that kept them: of the one that made them, or whose blob this one is (scenario S-19). Whoever hands variants out calls this before he looks for
// them, so that they are there for as long as the record is.
func (m *manager) keepVariants(ctx context.Context, c *graph.Candidate) error {
	info, err := m.opt.ContentStore.Info(ctx, digest.Digest(c.Blob.Digest))
	if err != nil {
		if errdefs.IsNotFound(err) {
			return nil
		}
		return errors.Wrapf(err, "looking for blob %s", c.Blob.Digest)
	}
	if !linked(info) {
		return nil
	}
	// The links go both ways, so that any of them keeps them all.
	held, err := m.opt.LeaseManager.ListResources(ctx, leases.Lease{ID: c.ID + variantsSuffix})
	if err != nil && !errdefs.IsNotFound(err) {
		return errors.Wrapf(err, "listing the resources of lease %q", c.ID+variantsSuffix)
	}
	if len(held) > 0 {
		return nil
	}
	return m.transact(ctx, func(ctx context.Context) error { return m.leaseVariant(ctx, c.ID, c.Blob.Digest) })
}

// variantKey is what calls of ensureCompression share an execution by.
type variantKey struct {
	rec  *graph.Record
	kind string
}

// ensureCompression sees to it that a record has a local blob of a compression, unless its own has it and is lazy, which
// it stays then (spec VAR-5). The record has a blob, and the caller keeps it.
func (m *manager) ensureCompression(ctx context.Context, rec *graph.Record, cfg compression.Config, src source) error {
	_, err := together(ctx, &m.conversions, variantKey{rec, cfg.Type.String()}, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, m.pinned(ctx, rec, func() error { return m.convert(ctx, rec, cfg, src) })
	})
	if err != nil {
		st := m.g.Status(rec)
		return &LayerError{Record: st.Imm, Digest: digest.Digest(st.Blob.Digest), Action: "converting", Err: err}
	}
	return nil
}

// convert is ensureCompression for the one who does it.
func (m *manager) convert(ctx context.Context, rec *graph.Record, cfg compression.Config, src source) (err error) {
	st := m.g.Status(rec)
	if !isDigest(st.Blob.Digest) {
		return errors.Wrapf(errInvalid, "blob digest %q", st.Blob.Digest)
	}
	c := graph.Candidate{Record: rec, ID: st.Imm, SnapshotID: st.ImmSnapshot, Blob: st.Blob}
	desc, local, err := m.describeBlob(ctx, &c, src, false)
	if err != nil {
		return err
	}
	needs, err := cfg.Type.NeedsConversion(ctx, m.opt.ContentStore, desc)
	if err == nil && needs && !local {
		// A blob has to be seen to know whether it is estargz.
		if err := m.pull(ctx, &c, src); err != nil {
			return err
		}
		local = true
		needs, err = cfg.Type.NeedsConversion(ctx, m.opt.ContentStore, desc)
	}
	switch {
	case err != nil:
		return err
	case !needs && !local:
		return nil
	case !needs:
		return m.linkOwn(ctx, &c, desc)
	}
	if err := m.keepVariants(ctx, &c); err != nil {
		return err
	}
	if _, err := m.findVariant(ctx, desc, cfg.Type); !errors.Is(err, errNoVariant) {
		return err
	}
	return m.makeVariant(ctx, &c, desc, cfg, src)
}

// makeVariant converts a local blob of a record, and links the two.
func (m *manager) makeVariant(ctx context.Context, c *graph.Candidate, desc ocispecs.Descriptor, cfg compression.Config, src source) (err error) {
	ev := Event{Kind: EventConvert, ID: c.ID, Reason: cfg.Type.String()}
	ctx, working := m.begin(ctx, ev)
	var made ocispecs.Descriptor
	defer func() {
		ev.Digest, ev.Size, ev.Err = made.Digest, made.Size, err
		working.done(ev)
	}()
	leave, err := enterPool(ctx, m, &m.packing, struct{}{}, src.rank, Event{ID: c.ID, Reason: PoolPack})
	if err != nil {
		return err
	}
	defer leave()
	work, err := m.leaseWork(ctx, c.ID, nil, contentResource(c.Blob.Digest))
	if err != nil {
		return err
	}
	defer work.end(ctx)
	if made, err = codec.Convert(work.with(ctx), m.opt.ContentStore, desc, cfg); err != nil {
		return err
	}
	return m.link(ctx, c, made)
}

// linkOwn links a record's own blob to itself, unless it is (spec VAR-1).
func (m *manager) linkOwn(ctx context.Context, c *graph.Candidate, desc ocispecs.Descriptor) error {
	info, err := m.opt.ContentStore.Info(ctx, desc.Digest)
	if err != nil {
		return errors.Wrapf(err, "looking for blob %s", desc.Digest)
	}
	if labelled(info.Labels, variantLabels(info.Labels, c.Blob.Digest, desc)) {
		return nil
	}
	return m.link(ctx, c, desc)
}

// link has the record's lease on variants keep a blob, and then links the two (spec VAR-1).
func (m *manager) link(ctx context.Context, c *graph.Candidate, desc ocispecs.Descriptor) error {
	err := m.transact(ctx, func(ctx context.Context) error { return m.leaseVariant(ctx, c.ID, desc.Digest.String()) })
	if err != nil {
		return err
	}
	return m.linkBlob(ctx, c.Record, c.ID, c.Blob.Digest, desc)
}
