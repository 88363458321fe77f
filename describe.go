package cache

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/layertype"
)

const (
	// annotationCreatedAt holds the time when a layer's record was made, as RFC 3339 writes it (spec DESC-5).
	annotationCreatedAt = "buildkit/createdat"
	// annotationSource, with a registry's host after it, lists the repositories of it that have the blob.
	annotationSource = "containerd.io/distribution.source."
)

// describeBlob describes a record's own blob for the outside, and tells whether it is local (spec DESC-1 to DESC-6).
func (m *manager) describeBlob(ctx context.Context, c *graph.Candidate, src source, preferNonDistributable bool) (desc ocispecs.Descriptor, local bool, err error) {
	d := digest.Digest(c.Blob.Digest)
	desc = ocispecs.Descriptor{Digest: d, Size: max(c.Blob.Size, 0), MediaType: c.Blob.MediaType, Annotations: map[string]string{}}
	info, err := m.opt.ContentStore.Info(ctx, d)
	switch {
	case err == nil:
		local, desc.Size = true, info.Size
	case !errdefs.IsNotFound(err):
		return desc, false, errors.Wrapf(err, "looking for blob %s", d)
	}
	if desc.MediaType == "" {
		if desc.MediaType, err = m.mediaTypeOf(ctx, c, src); err != nil {
			return desc, local, err
		}
	}
	if preferNonDistributable && len(c.Blob.URLs) > 0 {
		desc.MediaType, desc.URLs = layertype.NonDistributable(desc.MediaType), slices.Clone(c.Blob.URLs)
	} else {
		desc.MediaType = layertype.Distributable(desc.MediaType)
	}
	if _, annotations, described := description(info); described {
		maps.Copy(desc.Annotations, annotations)
	} else if dh := src.handlers[d]; dh != nil {
		for k, v := range dh.Annotations {
			if keptAnnotations[k] {
				desc.Annotations[k] = v
			}
		}
	}
	if c.Blob.DiffID != "" {
		desc.Annotations[annotationUncompressed] = c.Blob.DiffID
	}
	if meta, ok := m.g.Meta(c.ID); ok && meta.CreatedAt != 0 {
		desc.Annotations[annotationCreatedAt] = unixTime(meta.CreatedAt).UTC().Format(time.RFC3339Nano)
	}
	return desc, local, nil
}

// mediaTypeOf finds out what old databases do not tell, from the blob (spec RMT-4).
func (m *manager) mediaTypeOf(ctx context.Context, c *graph.Candidate, src source) (string, error) {
	if err := m.pull(ctx, c, src); err != nil {
		return "", err
	}
	return detectMediaType(ctx, m.opt.ContentStore, descriptorOf(c.Blob))
}

// description is what the labels of a local blob say of it (spec VAR-1); described is false if they do not.
func description(info content.Info) (mediaType string, annotations map[string]string, described bool) {
	for label, v := range info.Labels {
		if k, ok := strings.CutPrefix(label, labelBlobAnnotation); ok {
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[k] = v
			described = true
		}
	}
	mediaType = info.Labels[labelBlobMediaType]
	return mediaType, annotations, described || mediaType != ""
}

// distributionSources says from which repositories a lazy layer can be had, as registries mount blobs from one repository
// into another (spec RMT-5): annotations to add to those that are there. A name of an image that is none is left out (quirk Q40).
func (m *manager) distributionSources(ctx context.Context, id string, have map[string]string) map[string]string {
	meta, _ := m.g.Meta(id)
	add := map[string]string{}
	for _, ref := range meta.ImageRefs {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			log.G(ctx).WithError(err).WithField("record", id).Warnf("layer cache: image reference %q is left out", ref)
			continue
		}
		host, err := url.Parse("//" + reference.Domain(named))
		if err != nil || host.Hostname() == "" {
			log.G(ctx).WithField("record", id).Warnf("layer cache: image reference %q names no host", ref)
			continue
		}
		key := annotationSource + host.Hostname()
		known, ok := add[key]
		if !ok {
			known = have[key]
		}
		repos := slices.DeleteFunc(strings.Split(known, ","), func(s string) bool { return s == "" })
		if repo := reference.Path(named); !slices.Contains(repos, repo) {
			repos = append(repos, repo)
		}
		add[key] = strings.Join(repos, ",")
	}
	return add
}

func addAnnotations(desc *ocispecs.Descriptor, add map[string]string) {
	if len(add) == 0 {
		return
	}
	if desc.Annotations == nil {
		desc.Annotations = map[string]string{}
	}
	maps.Copy(desc.Annotations, add)
}

// cloneDescriptor is a copy that shares nothing with desc.
func cloneDescriptor(desc ocispecs.Descriptor) ocispecs.Descriptor {
	desc.Annotations = maps.Clone(desc.Annotations)
	desc.URLs = slices.Clone(desc.URLs)
	return desc
}
