// Package suites runs BuildKit's own tests on this library, beside the same tests on BuildKit's own cache.
//
// Select finds the packages: those with tests that import a package which the overlay replaces, those that keep a type of the library's as an
// alias, and all below solver/llbsolver. A Runner runs them on one Side, as root, each test binary with mounts of its own and a
// network that reaches nobody but itself. Check compares how the tests ended with a List, which says of every test how it ends on stock and on
// ours, and why if it does not pass. What passes on stock has to pass on ours.
//
// Tests that start daemons (BuildKit's util/testutil/integration) are skipped on both sides, as BuildKit's own variable
// SKIP_INTEGRATION_TESTS has it; compat/e2e builds with real daemons.
//
// A program that uses Runner calls Helper first: the go command and the tests call it again.
package suites
