// Package compression of BuildKit gets these aliases in place of its own declarations.
package compression

import lib "github.com/layercache/cache/compression"

type (
	// Type is a compression.
	Type = lib.Type
	// Config is a compression with a level, and whether blobs in others are to be converted.
	Config = lib.Config
	// Compressor compresses what is written to it.
	Compressor = lib.Compressor
	// Finalizer completes a blob in the content store, and returns labels for it.
	Finalizer = lib.Finalizer
)
