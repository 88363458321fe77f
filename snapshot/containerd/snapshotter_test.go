package containerd_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/containerd"
)

type recordingSnapshotter struct{ recorder }

func (r *recordingSnapshotter) Stat(ctx context.Context, _ string) (snapshots.Info, error) {
	r.note(ctx, "Stat")
	return snapshots.Info{}, nil
}

func (r *recordingSnapshotter) Update(ctx context.Context, info snapshots.Info, _ ...string) (snapshots.Info, error) {
	r.note(ctx, "Update")
	return info, nil
}

func (r *recordingSnapshotter) Usage(ctx context.Context, _ string) (snapshots.Usage, error) {
	r.note(ctx, "Usage")
	return snapshots.Usage{}, nil
}

func (r *recordingSnapshotter) Mounts(ctx context.Context, _ string) ([]mount.Mount, error) {
	r.note(ctx, "Mounts")
	return nil, nil
}

func (r *recordingSnapshotter) Prepare(ctx context.Context, _, _ string, _ ...snapshots.Opt) ([]mount.Mount, error) {
	r.note(ctx, "Prepare")
	return nil, nil
}

func (r *recordingSnapshotter) View(ctx context.Context, _, _ string, _ ...snapshots.Opt) ([]mount.Mount, error) {
	r.note(ctx, "View")
	return nil, nil
}

func (r *recordingSnapshotter) Commit(ctx context.Context, _, _ string, _ ...snapshots.Opt) error {
	r.note(ctx, "Commit")
	return nil
}

func (r *recordingSnapshotter) Remove(ctx context.Context, _ string) error {
	r.note(ctx, "Remove")
	return nil
}

func (r *recordingSnapshotter) Walk(ctx context.Context, _ snapshots.WalkFunc, _ ...string) error {
	r.note(ctx, "Walk")
	return nil
}

func (r *recordingSnapshotter) Close() error {
	r.note(context.Background(), "Close")
	return nil
}

// TestSnapshotterContexts: every call in the namespace, and nothing else of its context changed (spec SNP-6).
func TestSnapshotterContexts(t *testing.T) {
	r := &recordingSnapshotter{}
	sn := containerd.NSSnapshotter("ns", r)
	checkContexts(t, &r.recorder, "ns", []method{
		{"Stat", func(ctx context.Context) error { _, err := sn.Stat(ctx, "k"); return err }},
		{"Update", func(ctx context.Context) error { _, err := sn.Update(ctx, snapshots.Info{Name: "k"}); return err }},
		{"Usage", func(ctx context.Context) error { _, err := sn.Usage(ctx, "k"); return err }},
		{"Mounts", func(ctx context.Context) error { _, err := sn.Mounts(ctx, "k"); return err }},
		{"Prepare", func(ctx context.Context) error { _, err := sn.Prepare(ctx, "k", ""); return err }},
		{"View", func(ctx context.Context) error { _, err := sn.View(ctx, "k", ""); return err }},
		{"Commit", func(ctx context.Context) error { return sn.Commit(ctx, "n", "k") }},
		{"Walk", func(ctx context.Context) error { return sn.Walk(ctx, nil) }},
	})
	require.NoError(t, sn.Close())
	require.Equal(t, "Close", r.calls[len(r.calls)-1])
}

// TestSnapshotterRemoveForbidden: a typed error, and the backend is not asked (spec SNP-6).
func TestSnapshotterRemoveForbidden(t *testing.T) {
	r := &recordingSnapshotter{}
	idmap := &user.IdentityMapping{}
	sn := containerd.NewSnapshotter("native", r, "ns", idmap)
	err := sn.Remove(t.Context(), "k")
	require.True(t, errdefs.IsPermissionDenied(err), "%v", err)
	require.ErrorContains(t, err, `"k"`)
	require.Empty(t, r.calls)
	require.Equal(t, "native", sn.Name())
	require.Same(t, idmap, sn.IdentityMapping())
}
