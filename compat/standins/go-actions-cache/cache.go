// Package actionscache stands in for the client of GitHub's cache service, whose version the module proxy does not serve. It has the names
// that BuildKit calls. There is no service behind it: every call that would need one fails with ErrUnavailable.
package actionscache

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/pkg/errors"
)

// ErrUnavailable is returned by everything that would talk to the service.
var ErrUnavailable = errors.New("this build has a stand-in for the GitHub Actions cache")

// Log would be told what is done.
var Log func(format string, args ...any)

// Permission is what may be done in a scope, as bits.
type Permission int

// PermissionWrite is the bit for writing.
const PermissionWrite Permission = 1 << 1

// Scope is a part of the cache.
type Scope struct {
	Scope      string
	Permission Permission
}

// Opt is how to talk to the service.
type Opt struct {
	Client    *http.Client
	Timeout   time.Duration
	UserAgent string
}

// Cache is the service.
type Cache struct{}

// New fails.
func New(token, url string, v2 bool, opt Opt) (*Cache, error) { return nil, ErrUnavailable }

// Scopes returns none.
func (*Cache) Scopes() []Scope { return nil }

// Load fails.
func (*Cache) Load(ctx context.Context, keys ...string) (*Entry, error) { return nil, ErrUnavailable }

// Save fails.
func (*Cache) Save(ctx context.Context, key string, b Blob) error { return ErrUnavailable }

// SaveMutable fails.
func (*Cache) SaveMutable(ctx context.Context, key string, forceTimeout time.Duration, f func(old *Entry) (Blob, error)) error {
	return ErrUnavailable
}

// AllKeys fails.
func (*Cache) AllKeys(ctx context.Context, api *RestAPI, prefix string) (map[string]struct{}, error) {
	return nil, ErrUnavailable
}

// RestAPI is another way to the service.
type RestAPI struct{}

// NewRestAPI fails.
func NewRestAPI(repo, token string, opt Opt) (*RestAPI, error) { return nil, ErrUnavailable }

// Entry is something in the cache.
type Entry struct{ Key string }

// WriteTo fails.
func (*Entry) WriteTo(ctx context.Context, w io.Writer) error { return ErrUnavailable }

// Download returns what fails to be read.
func (*Entry) Download(ctx context.Context) ReaderAtCloser { return unavailable{} }

// ReaderAtCloser is content to be read.
type ReaderAtCloser interface {
	io.ReaderAt
	io.Closer
}

// Blob is content of a known size.
type Blob interface {
	ReaderAtCloser
	Size() int64
}

// NewBlob makes one of what is in memory.
func NewBlob(dt []byte) Blob { return blob{bytes.NewReader(dt)} }

type blob struct{ *bytes.Reader }

func (blob) Close() error { return nil }

type unavailable struct{}

func (unavailable) ReadAt([]byte, int64) (int, error) { return 0, ErrUnavailable }
func (unavailable) Close() error                      { return nil }
