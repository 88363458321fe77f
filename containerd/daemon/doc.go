// Package daemon runs containerd for tests: a process of its own that can be killed, suspended and started again, with all of its
// state in a temporary directory. It takes root, and skips the test otherwise.
//
// The program is containerd's, built from its module with the plugins that a cache needs; see cmd/containerd.
package daemon
