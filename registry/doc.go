// Package registry holds no code of the library, only tests of it: layers pulled lazily from a real registry. The
// registry, github.com/distribution/distribution/v3, runs in the test's own process on loopback and is filled with generated
// images; containerd's docker resolver pulls them, through a reverse proxy that misbehaves as a test tells it.
//
// It is a module of its own because of what the registry drags in.
//
//	server_test.go    the registry, and pushing to it
//	front_test.go     the misbehaving proxy, and what it can do
//	images_test.go    images from a seed
//	model_test.go     what an image's tree must be, by applying its archives to a model
//	remote_test.go    an image in the registry as an engine sees it: descriptors, diff IDs, handlers
//	cache_test.go     a cache that pulls through the proxy
//	pull_test.go      what happens when all goes well
//	faults_test.go    a registry that fails or lies, callers that go
//	together_test.go  many callers, hanging answers
//	nobody_linux_test.go  the same without privileges
package registry
