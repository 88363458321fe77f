// Package solver of BuildKit gets this alias in place of its own declaration.
package solver

import lib "github.com/layercache/cache/remote"

// Remote is a chain of layers as blobs, with where to read them from.
type Remote = lib.Remote
