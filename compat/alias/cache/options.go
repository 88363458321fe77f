package cache

import (
	"time"

	lib "github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/usage"
)

// RefOption is an option of the calls that return a ref. Unlike BuildKit's it is a closed set: see docs/buildkit.md.
type RefOption = lib.RefOption

// Options without a value.
const (
	// CachePolicyDefault lets a record go with its last ref.
	CachePolicyDefault = lib.CachePolicyDefault
	// CachePolicyRetain keeps it.
	CachePolicyRetain = lib.CachePolicyRetain
	// NoUpdateLastUsed makes a ref that is not counted as a use.
	NoUpdateLastUsed = lib.NoUpdateLastUsed
)

// Unlazy has GetByBlob fetch and unpack the layer on behalf of the session. It is a type in BuildKit, and is called like one.
func Unlazy(s session.Group) RefOption { return lib.Unlazy(s) }

// WithCreationTime sets when the record was made.
func WithCreationTime(tm time.Time) RefOption { return lib.WithCreationTime(tm) }

// WithDescription describes the record for people.
func WithDescription(text string) RefOption { return lib.WithDescription(text) }

// WithImageRef names an image that the layer belongs to.
func WithImageRef(ref string) RefOption { return lib.WithImageRef(ref) }

// WithRecordType says what the record is for.
func WithRecordType(t usage.RecordType) RefOption { return lib.WithRecordType(t) }
