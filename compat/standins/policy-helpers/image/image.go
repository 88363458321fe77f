// Package image stands in for a package that BuildKit's signature policies use. The module proxy
// does not serve the version BuildKit names, and nothing that is built here calls it.
package image
