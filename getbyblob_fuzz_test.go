package cache_test

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
)

const (
	keyDiffID = "containerd.io/uncompressed"
	keyTOC    = "containerd.io/snapshot/stargz/toc.digest"
)

// What a hostile descriptor is passed with.
const (
	withHandler = 1 << iota // a handler for its digest
	withParent              // an honest layer below it
	asStargz                // a snapshotter for which tables of contents count
	withExtract             // asks for the layer's tree, which cannot be had
	withUnlazy              // asks for it at once
)

// nothing is a provider that has no blob.
type nothing struct{}

func (nothing) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	return nil, errors.Wrapf(errdefs.ErrNotFound, "blob %s", desc.Digest)
}

func handlerOfNothing(annotations map[string]string) *cache.DescHandler {
	return &cache.DescHandler{
		Provider:    func(session.Group) content.Provider { return nothing{} },
		Annotations: annotations, SnapshotLabels: annotations, Ref: annotations[keyTOC],
	}
}

// typedError tells whether an error is one that a caller can act on.
func typedError(err error) bool {
	return errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsNotImplemented(err)
}

// FuzzGetByBlobDescriptor passes descriptors that nobody checked. Whatever is in them, GetByBlob makes a typed error and
// nothing else, or a record: which agrees with everything else (Check), is found by an equal call, and is still there, and found
// again, after a restart (spec MGR-16 to MGR-18, MGR-23, MGR-27, API-2; scenario S-25; fault 43).
func FuzzGetByBlobDescriptor(f *testing.F) {
	honest, other := digest.FromString("blob").String(), digest.FromString("diff").String()
	gzip := ocispecs.MediaTypeImageLayerGzip
	add := func(mediaType, d string, size int64, diffID, toc, url, key, value, name string, how byte) {
		f.Add(mediaType, d, size, diffID, toc, url, key, value, name, how)
	}
	for how := range byte(withUnlazy << 1) {
		add(gzip, honest, 4, other, "", "", "", "", "docker.io/library/x:y", how)
	}
	hostile := []string{
		"", ":", "sha256:", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:" + strings.Repeat("A", 64), "../../../etc/passwd",
		"sha256:../../" + strings.Repeat("a", 58), honest + "\x00", honest + "\n" + other, " " + honest, "sha256:" + strings.Repeat("a", 1<<10),
		"sha512:" + strings.Repeat("0", 128), "sha384:" + strings.Repeat("0", 96), "SHA256:" + honest[7:], honest[:70], "\xff\xfe", "null", `"` + honest + `"`,
	}
	for _, d := range hostile {
		add(gzip, d, 4, other, "", "", "", "", "", withHandler|withExtract)
		add(gzip, d, 4, other, "", "", "", "", "", 0)
		add(gzip, honest, 4, d, "", "", "", "", "", withHandler|withParent)
		add(gzip, honest, 4, other, d, "", "", "", "", withHandler|asStargz|withParent)
		add(gzip, honest, 4, other, d, "", "", "", "", withHandler)
		add(d, honest, 4, other, "", d, d, d, d, withHandler|withExtract)
	}
	for _, size := range []int64{0, -1, 1, math.MaxInt64, math.MinInt64} {
		add(gzip, honest, size, other, "", "", "", "", "", withHandler|withExtract)
	}
	add(gzip, "", 0, other, "", "", "", "", "", withParent|withUnlazy)
	for _, key := range []string{keyDiffID, keyTOC, "buildkit/createdat", "containerd.io/gc.root", "containerd.io/distribution.source.\x00", "_index", "cache.blob"} {
		add(gzip, honest, 4, other, "", "file:///etc/passwd", key, "\xff\x00'\"{}", "a\x00b\xff", withHandler|withExtract)
	}
	f.Fuzz(func(t *testing.T, mediaType, d string, size int64, diffID, toc, url, key, value, name string, how byte) {
		env := fuzzEnv(t, how)
		desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.Digest(d), Size: size, Annotations: map[string]string{}}
		for k, v := range map[string]string{key: value, keyTOC: toc, keyDiffID: diffID} {
			if v != "" {
				desc.Annotations[k] = v
			}
		}
		if url != "" {
			desc.URLs = []string{url, url}
		}
		handlers := cache.DescHandlers{}
		if how&withHandler != 0 {
			handlers[desc.Digest] = handlerOfNothing(desc.Annotations)
		}
		tryDescriptor(t, env, desc, handlers, name, how)
	})
}

func fuzzEnv(t *testing.T, how byte) *testutil.Env {
	t.Helper()
	opts := []testutil.Option{testutil.Doubles(), testutil.Bare()}
	if how&asStargz != 0 {
		opts = append(opts, named("stargz"))
	}
	return testutil.New(t, opts...)
}

// tryDescriptor makes a layer of a descriptor, in the ways that how tells, and looks at what that did.
func tryDescriptor(t *testing.T, env *testutil.Env, desc ocispecs.Descriptor, handlers cache.DescHandlers, name string, how byte) {
	t.Helper()
	base := ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromString("base"), Size: 4,
		Annotations: map[string]string{keyDiffID: digest.FromString("base diff").String()},
	}
	if handlers[base.Digest] == nil {
		handlers[base.Digest] = handlerOfNothing(nil)
	}
	get := func(opts ...cache.RefOption) (cache.ImmutableRef, error) {
		var parent cache.ImmutableRef
		if how&withParent != 0 {
			var err error
			parent, err = env.Manager.GetByBlob(ctx, base, nil, handlers)
			require.NoError(t, err)
			defer release(t, parent)
		}
		return env.Manager.GetByBlob(ctx, desc, parent, append(opts, handlers, cache.WithImageRef(name), cache.WithDescription(name))...)
	}
	if how&withUnlazy != 0 {
		ref, err := get(cache.Unlazy(nil))
		require.Error(t, err, "its data are nowhere")
		require.True(t, ref == nil, "untyped nil")
		require.True(t, typedError(err), "%+v", err)
		requireOnlyBase(t, env, how)
	}
	ref, err := get()
	if err != nil {
		require.True(t, ref == nil, "untyped nil")
		require.True(t, typedError(err), "%+v", err)
		requireOnlyBase(t, env, how)
		return
	}
	id := ref.ID()
	if how&withExtract != 0 {
		err := ref.Extract(ctx, nil)
		require.Error(t, err, "its data are nowhere")
		require.True(t, typedError(err), "%+v", err)
		_, err = ref.FileList(ctx, nil)
		require.Equal(t, desc.Digest == "", err == nil, "%+v", err)
	}
	requireAgreement(t, env)
	again, err := get()
	require.NoError(t, err)
	require.Equal(t, id, again.ID(), "an equal call finds it")
	release(t, again)
	release(t, ref)

	env.Reopen()
	requireAgreement(t, env)
	ref, err = env.Manager.Get(ctx, id, nil, handlers)
	require.NoError(t, err, "it is there after a restart")
	release(t, ref)
	ref, err = get()
	require.NoError(t, err)
	require.Equal(t, id, ref.ID(), "an equal call finds it after a restart")
	release(t, ref)
}

// requireOnlyBase demands that a failed call left nothing but the parent that was there before it.
func requireOnlyBase(t *testing.T, env *testutil.Env, how byte) {
	t.Helper()
	want := 0
	if how&withParent != 0 {
		want = 1
	}
	requireAgreement(t, env, func(c require.TestingT) {
		stats := env.Manager.Stats()
		require.Equal(c, want, stats.Records)
		require.Zero(c, stats.Refs)
	})
}

// requireAgreement demands that everything agrees, in the end: a call that fails returns before what it has started and
// nobody waits for any more has come to its end, which keeps the record until then.
func requireAgreement(t *testing.T, env *testutil.Env, more ...func(require.TestingT)) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		findings, err := env.Manager.Check(ctx)
		require.NoError(c, err)
		require.Empty(c, findings)
		for _, f := range more {
			f(c)
		}
	}, 10*time.Second, time.Millisecond)
}
