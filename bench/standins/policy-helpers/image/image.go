// Package image stands in for the one of github.com/moby/policy-helpers, which the module proxy
// does not serve in the version that BuildKit asks for. Only tests of BuildKit import it, and none
// of them is built here; but `go mod tidy` looks at the imports of tests, too.
package image
