package containerd_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/snapshottest"
)

func TestMain(m *testing.M) { snapshottest.Main(m) }

type valueKey struct{}

// recorder notes the contexts that calls arrive with.
type recorder struct {
	calls []string
	seen  []context.Context
}

func (r *recorder) note(ctx context.Context, name string) {
	r.calls = append(r.calls, name)
	r.seen = append(r.seen, ctx)
}

// method is one call on a wrapper, by the name that the recorder notes.
type method struct {
	name string
	call func(ctx context.Context) error
}

// checkContexts makes each call with a context that has a foreign namespace, a value and a cancellation, and wants
// all to arrive but the foreign namespace.
func checkContexts(t *testing.T, r *recorder, ns string, methods []method) {
	t.Helper()
	for _, m := range methods {
		ctx, cancel := context.WithCancel(namespaces.WithNamespace(context.WithValue(t.Context(), valueKey{}, m.name), "foreign"))
		before := len(r.calls)
		require.NoError(t, m.call(ctx), m.name)
		require.Equal(t, []string{m.name}, r.calls[before:])
		got := r.seen[before]
		gotNS, ok := namespaces.Namespace(got)
		require.True(t, ok, m.name)
		require.Equal(t, ns, gotNS, m.name)
		require.Equal(t, m.name, got.Value(valueKey{}), "%s lost a value of its context", m.name)
		require.NoError(t, got.Err(), m.name)
		cancel()
		require.ErrorIs(t, got.Err(), context.Canceled, "%s lost the cancellation of its context", m.name)
	}
}
