//go:build linux

package treemerge

import (
	"sync"

	"golang.org/x/sys/unix"
)

// node is a directory of the target. All that are there are known, as the target was empty. It is all that is remembered of
// them, and of files nothing is.
type node struct {
	// mtime is the time to give it in the end (spec APP-8), and mode if it cannot have that yet, as the owner could not write there.
	mtime    unix.Timespec
	mode     uint32
	hasMtime bool
	hasMode  bool
	// opaque hides what lies below the target.
	opaque bool
	// defaultACL says that what is made in it inherits an access control list.
	defaultACL bool

	mu struct {
		sync.Mutex
		children map[string]*node
		// own says that there may be files in it that Merge made, rather than linked.
		own bool
	}
}

func (n *node) child(name string) *node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.children[name]
}

func (n *node) put(name string, child *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.children == nil {
		n.mu.children = map[string]*node{}
	}
	n.mu.children[name] = child
}

// forget drops a directory that is about to be removed. It tells whether there was one.
func (n *node) forget(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.mu.children[name]
	delete(n.mu.children, name)
	return ok
}

func (n *node) setOwn() {
	n.mu.Lock()
	n.mu.own = true
	n.mu.Unlock()
}
