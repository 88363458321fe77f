package cache_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
)

// sut is a cache that runs the same script as the model. IDs are random, so each has its own for the model's names.
type sut struct {
	name  string
	tb    *scriptTB
	env   *testutil.Env
	ids   map[*half]string
	names map[string]*half
	refs  map[*handle]cache.Ref
}

// nobody is an ID that no record has.
const nobody = "nobody"

// id is what a half is called here.
func (s *sut) id(h *half) string {
	if h == nil {
		return nobody
	}
	return s.ids[h]
}

// learn notes the ref that stands for a handle of the model.
func (s *sut) learn(h *handle, ref cache.Ref) {
	s.refs[h] = ref
	id := ref.ID()
	if have, ok := s.ids[h.half]; ok {
		require.Equal(s.tb, have, id, "%s: %s has another ID", s.name, h.name)
		return
	}
	require.NotContains(s.tb, s.names, id, "%s: %s has the ID of another", s.name, h.name)
	s.ids[h.half], s.names[id] = id, h.half
}

func (s *sut) immutable(h *handle) cache.ImmutableRef {
	if h == nil {
		return nil
	}
	ref, ok := s.refs[h].(cache.ImmutableRef)
	require.True(s.tb, ok)
	return ref
}

func (s *sut) mutable(h *handle) cache.MutableRef {
	ref, ok := s.refs[h].(cache.MutableRef)
	require.True(s.tb, ok)
	return ref
}

// expect compares an error with what the model says.
func (s *sut) expect(want answer, err error, what string) {
	s.tb.Helper()
	got := answer("another error")
	var lazy cache.NeedsRemoteProviderError
	switch {
	case err == nil:
		got = fine
	case cache.IsNotFound(err):
		got = notFound
	case errdefs.IsUnavailable(err): // ErrLocked is (spec API-3)
		require.ErrorIs(s.tb, err, cache.ErrLocked)
		got = locked
	case errdefs.IsInvalidArgument(err):
		got = invalid
	case errors.As(err, &lazy):
		got = missing
	case errdefs.IsFailedPrecondition(err):
		got = precondition
	}
	require.Equal(s.tb, want, got, "%s: %s: %v", s.name, what, err)
}

// readFiles returns the regular files below dir.
func readFiles(t require.TestingT, dir string) map[string]string {
	files := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path[len(dir)+1:]] = string(data)
		return err
	}))
	return files
}

// halves returns the model's names of IDs, sorted.
func (s *sut) halves(ids []string) []string {
	names := []string{}
	for _, id := range ids {
		if h := s.names[id]; h != nil {
			id = h.name
		}
		names = append(names, id)
	}
	slices.Sort(names)
	return names
}

// scriptTB has what goes wrong in testutil end the script, so that rapid shrinks it, instead of the
// whole test. What is to be cleaned up is cleaned up after each script.
type scriptTB struct {
	testing.TB
	rt       *rapid.T
	cleanups []func()
}

func (t *scriptTB) Helper()                           {}
func (t *scriptTB) Errorf(format string, args ...any) { t.rt.Errorf(format, args...) }
func (t *scriptTB) Error(args ...any)                 { t.rt.Error(args...) }
func (t *scriptTB) Fatalf(format string, args ...any) { t.rt.Fatalf(format, args...) }
func (t *scriptTB) Fatal(args ...any)                 { t.rt.Fatal(args...) }
func (t *scriptTB) Fail()                             { t.rt.Fail() }
func (t *scriptTB) FailNow()                          { t.rt.FailNow() }
func (t *scriptTB) Failed() bool                      { return t.rt.Failed() }
func (t *scriptTB) Log(args ...any)                   { t.rt.Log(args...) }
func (t *scriptTB) Logf(format string, args ...any)   { t.rt.Logf(format, args...) }
func (t *scriptTB) Cleanup(fn func())                 { t.cleanups = append(t.cleanups, fn) }

func (t *scriptTB) TempDir() string {
	dir, err := os.MkdirTemp("", "cache-model")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func (t *scriptTB) cleanUp() {
	for len(t.cleanups) > 0 {
		last := len(t.cleanups) - 1
		fn := t.cleanups[last]
		t.cleanups = t.cleanups[:last]
		fn()
	}
}

func (s *sut) leases() (ids []string) {
	ls, err := s.env.Opt.LeaseManager.List(ctx)
	require.NoError(s.tb, err)
	for _, l := range ls {
		ids = append(ids, l.ID)
	}
	return ids
}

func (s *sut) blobs() (digests []string) {
	require.NoError(s.tb, s.env.Opt.ContentStore.Walk(ctx, func(info content.Info) error {
		digests = append(digests, info.Digest.String())
		return nil
	}))
	return digests
}

func (s *sut) snapshots() (names []string) {
	require.NoError(s.tb, s.env.Opt.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	}))
	return names
}
