// Package testutil is what tests of a layer cache are made of, the library's own and an embedder's: a
// cache in a temporary directory on real or in-memory parts, every call to which is a numbered fault
// point; a clock moved by hand; builders for layers and trees. It is for tests only.
//
//	func TestSomething(t *testing.T) {
//		env := testutil.New(t)
//		layer := testutil.MakeLayer(t, env, nil, func(dir string) { ... })
//		...
//		require.NoError(t, layer.Release(ctx))
//	}
//
// When the test ends, New's cleanup checks that no ref is left and that Manager.Check finds nothing, closes the cache,
// opens it again, checks that the same records are back, and looks for leaked goroutines and mounts.
//
// The packages below do not import the cache, so that the tests of every package can use them:
// fault (fault points), crash (processes that die at them), double (a backend in memory), fixture (directories of many records),
// tree (directory trees), need (skips).
package testutil

import "github.com/layercache/cache/testutil/fault"

// Faults is fault.Faults.
type Faults = fault.Faults

// Point is fault.Point.
type Point = fault.Point

// Trace is fault.Trace.
type Trace = fault.Trace

// NewFaults returns a Faults for parts that a test wires itself.
func NewFaults() *Faults { return fault.New() }
