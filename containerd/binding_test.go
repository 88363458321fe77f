package containerd

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// TestBinding: what is stored is found, and anything else is another backend: another value, or a file that cannot be read (spec INIT-3).
func TestBinding(t *testing.T) {
	dir := t.TempDir()
	b := binding{Daemon: "d", Namespace: "n", Snapshotter: "s"}
	stored, err := b.check(dir, false)
	require.NoError(t, err)
	require.False(t, stored)
	require.NoError(t, b.store(dir))
	stored, err = b.check(dir, false)
	require.NoError(t, err)
	require.True(t, stored)
	for _, other := range []binding{{"x", "n", "s"}, {"d", "x", "s"}, {"d", "n", "x"}} {
		_, err := other.check(dir, false)
		require.ErrorIs(t, err, ErrBackend)
		require.True(t, errdefs.IsFailedPrecondition(err))
		stored, err := other.check(dir, true)
		require.NoError(t, err)
		require.False(t, stored)
	}
	for _, text := range []string{"", "{", "[]", `{"daemon":1}`, "\x00"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, bindingFile), []byte(text), 0o600))
		_, err := b.check(dir, false)
		require.ErrorIs(t, err, ErrBackend, "%q", text)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file is left")
}

// TestOptions: what cannot be meant is an invalid argument, before anything is asked or written.
func TestOptions(t *testing.T) {
	for _, opts := range []Options{{Namespace: "no/slash"}, {Snapshotter: "no space"}, {Reach: -1}, {Reach: ReachNone + 1}} {
		_, err := OpenParts(t.Context(), nil, t.TempDir(), opts)
		require.True(t, errdefs.IsInvalidArgument(err), "%+v: %v", opts, err)
	}
	for _, dir := range []string{"", t.TempDir()} {
		_, err := OpenParts(t.Context(), nil, dir, Options{})
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	}
	require.Equal(t, []string{"probe", "direct", "none"}, []string{ReachProbe.String(), ReachDirect.String(), ReachNone.String()})
}
