package cache_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// streams is a provider whose readers go from the beginning to the end, and do nothing else. The first of them, if it is to be cut,
// ends in the middle.
type streams struct {
	content.Provider
	cut    bool
	opened atomic.Int32
	closed atomic.Int32
}

func (s *streams) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := s.Provider.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	end := ra.Size()
	if s.opened.Add(1) == 1 && s.cut {
		end /= 2
	}
	return &stream{ReaderAt: ra, of: s, end: end}, nil
}

type stream struct {
	content.ReaderAt
	of      *streams
	at, end int64
}

func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	if off != s.at {
		return 0, errors.New("a stream has no such offset")
	}
	if s.at == s.end && s.end < s.Size() {
		return 0, errors.Wrap(errdefs.ErrUnavailable, "cut")
	}
	n, err := s.ReaderAt.ReadAt(p[:min(int64(len(p)), s.end-s.at)], off)
	s.at += int64(n)
	return n, err
}

func (s *stream) Close() error {
	s.of.closed.Add(1)
	return s.ReaderAt.Close()
}

// TestStreamIsTakenUpAgain: a transfer that broke off goes on where it was, also if the other side cannot begin in the middle; within a
// process, and after one that has left the beginning of a blob. An embedder's own transfer gets this for nothing.
func TestStreamIsTakenUpAgain(t *testing.T) { // spec PULL-2, fault 11, fault 29
	file := tree.File("f", string(make([]byte, 1<<20)))
	for name, hook := range map[string]func(context.Context, content.Store, content.Provider, ocispecs.Descriptor, string) error{
		"own transfer": nil, "hook": copyFrom,
	} {
		for _, left := range []bool{false, true} {
			t.Run(name+map[bool]string{false: ", broken off", true: ", left behind"}[left], func(t *testing.T) {
				env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Hooks.FetchBlob = hook }))
				r := newRegistry()
				desc := r.layer(t, "", file)
				s := &streams{Provider: r, cut: !left}
				handlers := r.handlers(desc)
				handlers[desc.Digest].Provider = func(session.Group) content.Provider { return s }
				ref, err := env.Manager.GetByBlob(ctx, desc, nil, handlers)
				require.NoError(t, err)
				if left {
					leaveBeginning(t, env, r, desc)
				} else if hook != nil {
					require.ErrorIs(t, ref.Extract(ctx, nil), errdefs.ErrUnavailable) // it tries once
				}
				require.NoError(t, ref.Extract(ctx, nil))
				requireFile(t, ref, "f", string(make([]byte, 1<<20)))
				want := map[bool]int32{false: 3, true: 2}[left]
				require.Equal(t, [2]int32{want, want}, [2]int32{s.opened.Load(), s.closed.Load()})
				release(t, ref)
			})
		}
	}
}

// copyFrom transfers a blob by containerd's helpers.
func copyFrom(ctx context.Context, cs content.Store, provider content.Provider, desc ocispecs.Descriptor, _ string) (err error) {
	ra, err := provider.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer func() { _ = ra.Close() }()
	w, err := content.OpenWriter(ctx, cs, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	return content.Copy(ctx, w, io.NewSectionReader(ra, 0, ra.Size()), desc.Size, desc.Digest)
}

// leaveBeginning leaves a third of a blob in the content store as the transfer of a process does that is killed.
func leaveBeginning(t *testing.T, env *testutil.Env, from content.Provider, desc ocispecs.Descriptor) {
	t.Helper()
	w, err := content.OpenWriter(ctx, env.Opt.ContentStore, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
	require.NoError(t, err)
	data, err := content.ReadBlob(ctx, from, desc)
	require.NoError(t, err)
	_, err = w.Write(data[:len(data)/3])
	require.NoError(t, err)
	require.NoError(t, w.Close())
}
