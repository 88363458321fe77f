package cache

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil/double"
)

// TestUnavailableUntilTheEnd: when the context ends it is the differ's last word that is returned, be it during an attempt or between two.
func TestUnavailableUntilTheEnd(t *testing.T) { // scenario S-35, spec BLOB-6
	for _, attempts := range []int{1, 3} {
		ctx, cancel := context.WithCancel(context.Background())
		p := &packJob{m: &manager{opt: ManagerOpt{ContentStore: double.New(double.WithDir(t.TempDir())).ContentStore()}}, cfg: compression.Config{Type: codec.Gzip}}
		p.st.Imm = "record"
		last := errors.Wrap(errdefs.ErrUnavailable, "the last word")
		n := 0
		_, _, err := p.untilAvailable(ctx, func(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispecs.Descriptor, error) {
			n++
			if n < attempts {
				return ocispecs.Descriptor{}, errdefs.ErrUnavailable
			}
			if attempts > 1 {
				go cancel() // the pauses are long enough by now for it to come in one, or not
			} else {
				cancel()
			}
			return ocispecs.Descriptor{}, last
		}, nil, nil)
		require.ErrorIs(t, err, last)
		require.NotErrorIs(t, err, context.Canceled)
		require.GreaterOrEqual(t, n, attempts)
		if attempts == 1 {
			require.Equal(t, 1, n)
		}
		cancel()
	}
}

// absentStore is a content store in a process that is gone.
type absentStore struct{ content.Store }

func (absentStore) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errdefs.ErrUnavailable
}

// TestUnavailableWithItsStore: a differ is not waited for where the content store is not there either, however long the caller would wait.
func TestUnavailableWithItsStore(t *testing.T) { // scenario S-35, fault 26
	p := &packJob{m: &manager{opt: ManagerOpt{ContentStore: absentStore{}}}, cfg: compression.Config{Type: codec.Gzip}}
	n := 0
	_, _, err := p.untilAvailable(t.Context(), func(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispecs.Descriptor, error) {
		n++
		return ocispecs.Descriptor{}, errdefs.ErrUnavailable
	}, nil, nil)
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	require.Equal(t, 1, n)
}
