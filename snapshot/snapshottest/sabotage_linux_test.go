package snapshottest_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/snapshottest"
)

func TestMain(m *testing.M) { snapshottest.Main(m) }

// saboteurEnv tells the test binary to run the suite on a broken snapshotter.
const saboteurEnv = "SNAPSHOTTEST_SABOTEUR"

// saboteurs break one thing each; caught names a check that must fail for it.
var saboteurs = map[string]struct {
	breakIt func(snapshot.Snapshotter) snapshot.Snapshotter
	caught  string
}{
	"nameless":        {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &nameless{s} }, "NameIsThere"},
	"untyped errors":  {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &untyped{s} }, "MissingKeys/Stat"},
	"eager prepare":   {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &eager{s} }, "TakenKeys/Prepare_a"},
	"label eater":     {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &labelEater{s} }, "CommitInheritsLabels"},
	"deaf walk":       {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &deafWalk{s} }, "WalkEndsWithTheErrorOfItsFunc"},
	"filterless walk": {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &filterless{s} }, "WalkAndFilters"},
	"writable views":  {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &writableViews{s} }, "ViewsAreReadOnly"},
	"shared mounts":   {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &sharedMounts{s} }, "MountListsAreCopies"},
	"orphans":         {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &orphans{s} }, "LayersOnLayers"},
	"fake commit":     {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &fakeCommit{s} }, "StatThroughALife"},
	"free of charge":  {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &freeOfCharge{s} }, "Usage"},
	"lenient remove":  {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &lenientRemove{s} }, "Remove"},
	"bad close":       {func(s snapshot.Snapshotter) snapshot.Snapshotter { return &badClose{Snapshotter: s} }, "CloseTwice"},
}

// TestSuiteCatchesSabotage: a suite that passes everything would pin nothing (spec SNP-1).
func TestSuiteCatchesSabotage(t *testing.T) {
	for name, s := range saboteurs {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestSabotaged$/^"+topLevel(s.caught)+"$", "-test.v")
			cmd.Env = append(os.Environ(), saboteurEnv+"="+name)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "the suite passed:\n%s", out)
			require.Contains(t, string(out), "--- FAIL: TestSabotaged/"+s.caught+" ", "%s", out)
			require.NotContains(t, string(out), "left behind", "%s", out)
		})
	}
}

// topLevel is the check that a subtest belongs to.
func topLevel(name string) string {
	for i := range name {
		if name[i] == '/' {
			return name[:i]
		}
	}
	return name
}

// TestSabotaged is the child of TestSuiteCatchesSabotage.
func TestSabotaged(t *testing.T) {
	s, ok := saboteurs[os.Getenv(saboteurEnv)]
	if !ok {
		t.Skip("a child of TestSuiteCatchesSabotage only")
	}
	snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
		sn, err := native.NewSnapshotter(t.TempDir())
		require.NoError(t, err)
		t.Cleanup(func() { _ = sn.Close() })
		return snapshottest.Fixture{Snapshotter: s.breakIt(snapshot.FromContainerdSnapshotter("native", sn, nil))}
	})
}

type nameless struct{ snapshot.Snapshotter }

func (nameless) Name() string { return "" }

type untyped struct{ snapshot.Snapshotter }

func (s untyped) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	info, err := s.Snapshotter.Stat(ctx, key)
	if err != nil {
		err = errors.New(err.Error())
	}
	return info, err
}

// eager takes "already exists" for success.
type eager struct{ snapshot.Snapshotter }

func (s eager) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	if _, err := s.Stat(ctx, key); err == nil {
		return nil
	}
	return s.Snapshotter.Prepare(ctx, key, parent, opts...)
}

// labelEater forgets what the active snapshot was labelled with.
type labelEater struct{ snapshot.Snapshotter }

func (s labelEater) Prepare(ctx context.Context, key, parent string, _ ...snapshots.Opt) error {
	return s.Snapshotter.Prepare(ctx, key, parent)
}

type deafWalk struct{ snapshot.Snapshotter }

func (s deafWalk) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.Snapshotter.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		_ = fn(ctx, info)
		return nil
	}, filters...)
}

type filterless struct{ snapshot.Snapshotter }

func (s filterless) Walk(ctx context.Context, fn snapshots.WalkFunc, _ ...string) error {
	return s.Snapshotter.Walk(ctx, fn)
}

type writableViews struct{ snapshot.Snapshotter }

func (s writableViews) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := s.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return nil, err
	}
	for i := range mounts {
		mounts[i].Options = []string{"rbind", "rw"}
	}
	return snapshot.NewMountable(mounts, release, nil), nil
}

// sharedMounts hands the same list to everybody.
type sharedMounts struct{ snapshot.Snapshotter }

func (s sharedMounts) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := s.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	mounts, _, err := m.Mount()
	return oneList(mounts), err
}

type oneList []mount.Mount

func (l oneList) Mount() ([]mount.Mount, func() error, error) {
	return l, func() error { return nil }, nil
}

func (oneList) IdentityMapping() *user.IdentityMapping { return nil }

// orphans forgets parents.
type orphans struct{ snapshot.Snapshotter }

func (s orphans) Prepare(ctx context.Context, key, _ string, opts ...snapshots.Opt) error {
	return s.Snapshotter.Prepare(ctx, key, "", opts...)
}

// fakeCommit leaves everything active.
type fakeCommit struct{ snapshot.Snapshotter }

func (s fakeCommit) Commit(ctx context.Context, _, key string, _ ...snapshots.Opt) error {
	_, err := s.Stat(ctx, key)
	return err
}

type freeOfCharge struct{ snapshot.Snapshotter }

func (freeOfCharge) Usage(context.Context, string) (snapshots.Usage, error) {
	return snapshots.Usage{}, nil
}

// lenientRemove takes every failure for success.
type lenientRemove struct{ snapshot.Snapshotter }

func (s lenientRemove) Remove(ctx context.Context, key string) error {
	_ = s.Snapshotter.Remove(ctx, key)
	return nil
}

type badClose struct {
	snapshot.Snapshotter
	closed bool
}

func (s *badClose) Close() error {
	if s.closed {
		return errors.New("closed already")
	}
	s.closed = true
	return s.Snapshotter.Close()
}
