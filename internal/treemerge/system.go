//go:build linux

package treemerge

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// system are the system calls that a filesystem may refuse, and tests make refuse.
type system struct {
	linkat        func(fromDir int, from string, toDir int, to string) error
	clone         func(to, from int) error
	copyFileRange func(from int, fromOff *int64, to int, toOff *int64, n int) (int, error)
}

var realSystem = system{
	linkat: func(fromDir int, from string, toDir int, to string) error {
		return unix.Linkat(fromDir, from, toDir, to, 0)
	},
	clone: unix.IoctlFileClone,
	copyFileRange: func(from int, fromOff *int64, to int, toOff *int64, n int) (int, error) {
		return unix.CopyFileRange(from, fromOff, to, toOff, n, 0)
	},
}

// counters are Stats that are added to from several goroutines.
type counters struct {
	linked, cloned, copied, bytes atomic.Int64

	mu     sync.Mutex
	noLink error
}

// refuse notes why a file could not be linked.
func (c *counters) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noLink == nil {
		c.noLink = err
	}
}

func (c *counters) get() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{
		Linked: c.linked.Load(), Cloned: c.cloned.Load(), Copied: c.copied.Load(), Bytes: c.bytes.Load(),
		NoLink: c.noLink,
	}
}
