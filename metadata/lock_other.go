//go:build !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

package metadata

import "os"

// lockFile leaves locking to bbolt, which could not take a lock twice here.
func lockFile(*os.File) error { return nil }

// canSalvage tells whether an open file can be replaced while it is locked.
const canSalvage = false

// copyOwner does nothing: nothing is salvaged here.
func copyOwner(os.FileInfo, *os.File) error { return nil }

// syncDir does nothing: directories cannot be synced here.
func syncDir(string) error { return nil }
