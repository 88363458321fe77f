// Package cache stands in for BuildKit's package of that path: its names, on the library.
package cache

import (
	lib "github.com/layercache/cache"
)

// The manager and what it is made of.
type (
	// Accessor hands out refs to layers.
	Accessor = lib.Accessor
	// Controller tells what the cache holds, and deletes from it.
	Controller = lib.Controller
	// Manager is both, and can be closed.
	Manager = lib.Manager
	// ManagerOpt is what NewManager needs.
	ManagerOpt = lib.ManagerOpt
	// MetadataStore finds records by what was indexed.
	MetadataStore = lib.MetadataStore
	// ExternalRefChecker tells what is used outside of the cache.
	ExternalRefChecker = lib.ExternalRefChecker
	// ExternalRefCheckerFunc makes one for a listing or a prune.
	ExternalRefCheckerFunc = lib.ExternalRefCheckerFunc
)

// Refs.
type (
	// Ref is what mutable and immutable refs have in common.
	Ref = lib.Ref
	// ImmutableRef is a layer.
	ImmutableRef = lib.ImmutableRef
	// MutableRef is a layer that is being written.
	MutableRef = lib.MutableRef
	// RefList is a chain of layers.
	RefList = lib.RefList
	// RefMetadata is what the cache and its users keep about a record.
	RefMetadata = lib.RefMetadata
	// Mountable is what has mounts on behalf of a session.
	Mountable = lib.Mountable
)

// Layers that are not here yet.
type (
	// DescHandler says how to get a blob.
	DescHandler = lib.DescHandler
	// DescHandlers has one for each digest. It is a ref option.
	DescHandlers = lib.DescHandlers
	// DescHandlerKey is what solver.CacheOpts keeps a handler under.
	DescHandlerKey = lib.DescHandlerKey
	// NeedsRemoteProviderError names blobs for which a handler is missing.
	NeedsRemoteProviderError = lib.NeedsRemoteProviderError
	// Unlazier fetches what it stands for.
	Unlazier = lib.Unlazier
)

var (
	// ErrLocked is returned for a record that is in use by a mutable ref.
	ErrLocked = lib.ErrLocked
	// ErrNoBlobs is returned for a layer without a blob where none may be made.
	ErrNoBlobs = lib.ErrNoBlobs
)

// IsNotFound reports whether an error says that a record is not there.
func IsNotFound(err error) bool { return lib.IsNotFound(err) }
