// Package executor of BuildKit gets this alias in place of its own declaration.
package executor

import lib "github.com/layercache/cache/mountable"

// MountableRef is what has mounts, until they are released.
type MountableRef = lib.Mountable
