// Package session of BuildKit gets these aliases in place of its own declarations.
package session

import lib "github.com/layercache/cache/session"

type (
	// Group is the sessions on whose behalf something is done.
	Group = lib.Group
	// Iterator walks their IDs.
	Iterator = lib.Iterator
)
