// Package overlay puts the alias packages of this module into BuildKit, in one of two ways.
//
// Write leaves BuildKit as it lies in the module cache. It makes a directory with a go.mod that replaces BuildKit by a link to it, and
// with the JSON of what differs, for `go build -overlay` and `go test -overlay`. The link is there because Go refuses overlays of
// files below its module cache.
//
// Fork changes the files of a checkout, for good.
//
// Both begin by comparing what BuildKit declares, in the packages to be replaced and of the types to be cut out, with what is known of the
// version that the alias packages were written for. What is missing, new or different is a *ChangedError.
package overlay
