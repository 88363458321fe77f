// Package config stands in for BuildKit's package of that path: its names, on the library.
package config

import "github.com/layercache/cache/remote"

// RefConfig says in which form blobs are wanted.
type RefConfig = remote.RefConfig
