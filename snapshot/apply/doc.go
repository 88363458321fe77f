// Package apply unpacks layer blobs: into mounts, or into the upper directory of an overlay whose lower layers
// are not there yet.
//
// The archive itself is written by containerd's package archive. Around it, this package
//
//   - decodes the blob ahead of the writing, so that the two overlap;
//   - looks at every entry before it is written, and refuses what could mean different things in different places: what
//     a layer may hold does not depend on the snapshotter or on how it is unpacked;
//   - follows the image specification where files and whiteouts of one layer meet: a whiteout hides what lies
//     below the layer, never what the layer itself brings, whatever their order;
//   - works without privileges on whatever is a plain directory, such as the mounts of the native snapshotter.
//
// # What is refused
//
// An entry outside of the tree ("../x"), a hard link from outside of it, to itself, to a directory or to nothing, an empty name,
// whiteouts of nothing, "." and "..", entries below a whiteout, the device number 0/0 (it is how overlayfs marks a
// deletion), owners and device numbers that no system has, names and link targets longer than any system takes: errors of
// category invalid argument. Absolute names are taken as relative to the tree, and symbolic links are
// followed within it only. What unpacking wrote before the error stays there as garbage.
//
// Extended attributes by which overlayfs steers itself ("trusted.", "user.overlay.") are left out.
//
// # Without privileges
//
// An entry that the process has not the rights to make is an error of category permission denied: *OwnerError for somebody else's file,
// *PrivilegeError for a device node or a file capability. SquashOwners turns both into something
// that anybody can make.
package apply
