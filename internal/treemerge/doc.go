// Package treemerge applies differences between directory trees, one after the other, to a directory.
//
// Files are taken over from where they lie: as hard links where that is allowed, else as clones that share their blocks (reflinks), else
// as copies. Nothing is looked up by a path: both sides are held open directory by directory, and no symbolic
// link is followed. One walk finds the differences (package treediff) and applies them; a second one, of
// the directories that were made only, gives them their times and adds up what was made.
//
// The directory may be the upper one of an overlay. Then deletions of what lies below become marks, and directories that
// must not show it are marked as opaque.
//
// Only Linux has what this takes; elsewhere the package is empty.
package treemerge
