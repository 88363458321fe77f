// Package tree writes directory trees from a declaration, reads them back and compares them: files,
// directories, symbolic and hard links, fifos, devices, with mode, owner, time and extended
// attributes. It is for tests.
//
//	err := tree.Write(dir,
//		tree.File("etc/passwd", "root", tree.Mode(0o600)),
//		tree.Symlink("etc/alias", "passwd"),
//		tree.Hardlink("etc/same", "etc/passwd"),
//	)
package tree

import (
	"io/fs"
	"maps"
	"time"
)

// Kind is what an entry is.
type Kind string

// The kinds of entries.
const (
	KindFile     Kind = "file"
	KindDir      Kind = "directory"
	KindSymlink  Kind = "symlink"
	KindHardlink Kind = "hard link"
	KindFifo     Kind = "fifo"
	KindChar     Kind = "character device"
	KindBlock    Kind = "block device"
	KindSocket   Kind = "socket"
	// KindOther is found by Read and cannot be written.
	KindOther Kind = "other"

	// kindWhiteout and kindOpaque exist in archives only.
	kindWhiteout Kind = "whiteout"
	kindOpaque   Kind = "opaque directory"
)

// Entry is one entry of a tree.
type Entry struct {
	// Path is relative to the root, with slashes. "." is the root itself.
	Path string
	Kind Kind
	// Mode holds permissions, setuid, setgid and sticky bit, as in package os. Symbolic links have none.
	Mode fs.FileMode
	// Data is a file's content.
	Data string
	// Target is where a symbolic link points, or the path of what a hard link is another name of.
	Target string
	// UID and GID are the owner; the writing user's unless Owner was given.
	UID, GID int
	// ModTime is the modification time; that of writing unless Time was given.
	ModTime time.Time
	// Xattrs are the extended attributes.
	Xattrs map[string]string
	// Major and Minor number a device.
	Major, Minor uint32

	owned bool
}

// Opt changes an entry that is declared.
type Opt func(*Entry)

// Mode sets permissions, setuid, setgid and sticky bit (os.ModeSetuid and so on), whatever the umask.
func Mode(mode fs.FileMode) Opt { return func(e *Entry) { e.Mode = mode } }

// Time sets the modification time, in nanoseconds.
func Time(t time.Time) Opt { return func(e *Entry) { e.ModTime = t } }

// Owner sets the owner, for which writing needs root.
func Owner(uid, gid int) Opt { return func(e *Entry) { e.UID, e.GID, e.owned = uid, gid, true } }

// Xattr sets an extended attribute, such as "user.name".
func Xattr(name, value string) Opt {
	return func(e *Entry) {
		e.Xattrs = maps.Clone(e.Xattrs)
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		e.Xattrs[name] = value
	}
}

func entry(e Entry, opts []Opt) Entry {
	for _, opt := range opts {
		opt(&e)
	}
	return e
}

// File declares a file, of mode 0644 by default.
func File(path, data string, opts ...Opt) Entry {
	return entry(Entry{Path: path, Kind: KindFile, Data: data, Mode: 0o644}, opts)
}

// Dir declares a directory, of mode 0755 by default. Parents of other entries need no declaration.
func Dir(path string, opts ...Opt) Entry {
	return entry(Entry{Path: path, Kind: KindDir, Mode: 0o755}, opts)
}

// Symlink declares a symbolic link to target, which need not exist.
func Symlink(path, target string, opts ...Opt) Entry {
	return entry(Entry{Path: path, Kind: KindSymlink, Target: target}, opts)
}

// Hardlink declares another name of what is declared earlier under the path existing.
func Hardlink(path, existing string) Entry {
	return Entry{Path: path, Kind: KindHardlink, Target: existing}
}

// Fifo declares a named pipe, of mode 0644 by default.
func Fifo(path string, opts ...Opt) Entry {
	return entry(Entry{Path: path, Kind: KindFifo, Mode: 0o644}, opts)
}

// Char declares a character device, for which writing needs root.
func Char(path string, major, minor uint32, opts ...Opt) Entry {
	return entry(Entry{Path: path, Kind: KindChar, Major: major, Minor: minor, Mode: 0o644}, opts)
}

// Block declares a block device, for which writing needs root.
func Block(path string, major, minor uint32, opts ...Opt) Entry {
	return entry(Entry{Path: path, Kind: KindBlock, Major: major, Minor: minor, Mode: 0o644}, opts)
}

// Socket declares a socket that nobody listens on, of mode 0644 by default. Only Linux can write it.
func Socket(path string, opts ...Opt) Entry {
	return entry(Entry{Path: path, Kind: KindSocket, Mode: 0o644}, opts)
}

// Whiteout declares, in an archive, that a path of the layer below is gone.
func Whiteout(path string) Entry { return Entry{Path: path, Kind: kindWhiteout} }

// Opaque declares, in an archive, that of a directory nothing of the layer below is seen.
func Opaque(dir string) Entry { return Entry{Path: dir, Kind: kindOpaque} }
