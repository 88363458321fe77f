// Package treediff compares two directory trees and yields what changed, without ever resolving a path: every
// name is looked up in a directory that is held open, and no symbolic link is followed.
//
// A tree is a stack of directories, as an overlay has them: the topmost one that has a name says what it is,
// directories of the same name are merged, and marks hide what lies below. A plain directory is a stack of one. So an overlay
// is read from the directories that it is made of. It need not be mounted, and what is found lies where it can be
// hard-linked from.
//
// Directories that both trees have in common from some layer downwards are the same, and what only they hold is not
// looked at. The difference of an overlay and its own lower layers thus takes one walk of the upper directory.
//
// [Walk] goes through a whole tree in the order of archives. [OpenPair] and [Pair.Changes] leave the order, and what is done at
// once, to the caller. Only Linux has what this takes; elsewhere the package is empty.
package treediff
