// Package policy stands in for the verifier of signatures that BuildKit uses, whose version the module proxy does not serve. It has the
// names that BuildKit calls. It verifies nothing: every call fails with ErrUnavailable.
package policy

import (
	"context"

	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
)

// ErrUnavailable is returned by everything that would verify.
var ErrUnavailable = errors.New("this build has a stand-in for the verifier of signatures")

// Config is what a verifier needs.
type Config struct {
	StateDir      string
	RequireOnline bool
}

// Verifier verifies signatures.
type Verifier struct{}

// NewVerifier fails.
func NewVerifier(cfg Config) (*Verifier, error) { return nil, ErrUnavailable }

// ArtifactVerifyOpt is an option of VerifyArtifact.
type ArtifactVerifyOpt func()

// WithSLSANotRequired takes signatures without provenance.
func WithSLSANotRequired() ArtifactVerifyOpt { return func() {} }

// VerifyArtifact fails.
func (*Verifier) VerifyArtifact(ctx context.Context, dgst digest.Digest, bundle []byte, opts ...ArtifactVerifyOpt) (*SignatureInfo, error) {
	return nil, ErrUnavailable
}

// SignatureInfo is what a signature says.
type SignatureInfo struct {
	Signer     *certificate.Summary
	Timestamps []Timestamp
}

// Timestamp is when it was seen, and by whom.
type Timestamp struct{ Type string }
