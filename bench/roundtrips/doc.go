// Package roundtrips counts, in its tests, what this library and BuildKit's containerd worker ask of a containerd daemon for the same work.
package roundtrips
