// Package image stands in for the part of the verifier that finds an image's signatures. It finds none: every call fails with
// ErrUnavailable, and so do the builds that ask for a signature.
package image

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// ErrUnavailable is returned by everything that would look for a signature.
var ErrUnavailable = errors.New("this build has a stand-in for the verifier of signatures")

// Predicate types of provenance.
const (
	SLSAProvenancePredicateType02 = "https://slsa.dev/provenance/v0.2"
	SLSAProvenancePredicateType1  = "https://slsa.dev/provenance/v1"
)

// ReferrersProvider reads blobs, and finds what refers to one.
type ReferrersProvider interface {
	content.Provider
	FetchReferrers(ctx context.Context, dgst digest.Digest, opts ...remotes.FetchReferrersOpt) ([]ocispecs.Descriptor, error)
}

// Manifest is a manifest's descriptor.
type Manifest struct{ ocispecs.Descriptor }

// SignatureChain is an image with what is said about it, and who signed that.
type SignatureChain struct {
	ImageManifest, AttestationManifest, SignatureManifest *Manifest
}

// OCIManifest fails.
func (*SignatureChain) OCIManifest(ctx context.Context, m *Manifest) (*ocispecs.Manifest, error) {
	return nil, ErrUnavailable
}

// ResolveSignatureChain fails.
func ResolveSignatureChain(ctx context.Context, p ReferrersProvider, desc ocispecs.Descriptor, platform *ocispecs.Platform) (*SignatureChain, error) {
	return nil, ErrUnavailable
}

// ReadBlob fails.
func ReadBlob(ctx context.Context, p ReferrersProvider, desc ocispecs.Descriptor) ([]byte, error) {
	return nil, ErrUnavailable
}
