// Package differ packs what a tree has beside another one as a layer, and writes it into a content store.
//
// A layer is the archive that containerd and BuildKit write for the same changes, byte for byte, so that it has the same diff
// ID. What that means in particular:
//
//   - Times have whole seconds; those of directories that are listed for what is in them are theirs.
//   - Of extended attributes there is "security.capability" alone.
//   - Sockets are left out. Users and groups have numbers and no names.
//   - A deletion is an empty file ".wh.NAME" of the time 0, an opaque directory of an overlay one deletion for each name that it hides.
//   - Of a file with several names of which any is new or changed, all names are listed: the content once, the others as hard links.
//   - A device with the number 0/0 is one in a plain directory, though no layer with it can be unpacked to an overlay.
//   - A file called ".wh.NAME" reads as a deletion: archives have no other way to say so.
//
// Two archives of the same trees are equal.
//
// # Where trees are read
//
// Bind mounts and overlays are read where they lie, from their directories, each name being looked up in a directory that is
// held open: nothing needs to be mounted, no symbolic link is followed and no path leads out of a tree. Other mounts, and overlays with
// options that are not known, are mounted for the time of the call, read-only.
//
// # What fails
//
// A file that changed while it was being packed, in size or in what its name stands for, is an error of category aborted; a directory of
// an overlay that shows another directory's content (redirect_dir) one of category failed precondition. After any error the
// content store holds no blob; under a reference that the caller gave, there may be an upload that the next call begins anew.
package differ
