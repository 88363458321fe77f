// Package e2e runs two BuildKits, as it is and with this library in it, and gives both the same work: the programs as they are built
// for users, driven by their own buildctl, with runc, on directories on disk.
//
// Programs builds both. A Daemon is one buildkitd on a directory; it is stopped, or killed, and started again on the same directory or
// by the other side. Nothing of it needs a network: images are built of a layout that WriteLayout makes, or of nothing.
package e2e
