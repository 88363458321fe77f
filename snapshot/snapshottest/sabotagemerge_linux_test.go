package snapshottest_test

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/snapshottest"
)

// mergeSaboteurs break one thing each; caught names a check that must fail for it.
var mergeSaboteurs = map[string]struct {
	breakIt func(snapshot.MergeSnapshotter) snapshot.MergeSnapshotter
	caught  string
}{
	"last only":     {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &lastOnly{s} }, "MergeOfLayers"},
	"backwards":     {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &backwards{s} }, "MergeOfLayers"},
	"keeps all":     {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &keepsAll{s} }, "MergeDeletes"},
	"once each":     {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &onceEach{s} }, "MergeOfTheSameTwice"},
	"optionless":    {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &optionless{s} }, "MergeOptions"},
	"lenient":       {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &lenientMerge{s} }, "MergeMissing"},
	"overwrites":    {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &overwrites{s} }, "MergeTaken"},
	"tireless":      {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &tireless{s} }, "MergeCancelled"},
	"counts links":  {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &countsLinks{s} }, "MergeUsage"},
	"leaves a view": {func(s snapshot.MergeSnapshotter) snapshot.MergeSnapshotter { return &leavesView{s} }, "MergeMissing"},
}

// TestMergeSuiteCatchesSabotage is TestSuiteCatchesSabotage for merges (spec MRG-1, MRG-4, MRG-6).
func TestMergeSuiteCatchesSabotage(t *testing.T) {
	for name, s := range mergeSaboteurs {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestMergeSabotaged$/^"+s.caught+"$", "-test.v")
			cmd.Env = append(os.Environ(), saboteurEnv+"="+name)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "the suite passed:\n%s", out)
			require.Contains(t, string(out), "--- FAIL: TestMergeSabotaged/"+s.caught+" ", "%s", out)
			require.NotContains(t, string(out), "left behind", "%s", out)
		})
	}
}

// TestMergeSabotaged is the child of TestMergeSuiteCatchesSabotage.
func TestMergeSabotaged(t *testing.T) {
	s, ok := mergeSaboteurs[os.Getenv(saboteurEnv)]
	if !ok {
		t.Skip("a child of TestMergeSuiteCatchesSabotage only")
	}
	snapshottest.RunMerge(t, func(t *testing.T) snapshottest.MergeFixture {
		sn, err := native.NewSnapshotter(t.TempDir())
		require.NoError(t, err)
		t.Cleanup(func() { _ = sn.Close() })
		merger := snapshot.NewMergeSnapshotter(t.Context(), snapshot.FromContainerdSnapshotter("native", sn, nil), nil)
		return snapshottest.MergeFixture{Snapshotter: s.breakIt(merger), Capabilities: snapshot.CapabilitiesOf("native")}
	})
}

type lastOnly struct{ snapshot.MergeSnapshotter }

func (s lastOnly) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) error {
	return s.MergeSnapshotter.Merge(ctx, key, diffs[max(0, len(diffs)-1):], opts...)
}

type backwards struct{ snapshot.MergeSnapshotter }

func (s backwards) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) error {
	var turned []snapshot.Diff
	for i := range diffs {
		turned = append(turned, diffs[len(diffs)-1-i])
	}
	return s.MergeSnapshotter.Merge(ctx, key, turned, opts...)
}

// keepsAll deletes nothing.
type keepsAll struct{ snapshot.MergeSnapshotter }

func (s keepsAll) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) error {
	var whole []snapshot.Diff
	for _, d := range diffs {
		whole = append(whole, snapshot.Diff{Upper: d.Upper})
	}
	return s.MergeSnapshotter.Merge(ctx, key, whole, opts...)
}

// onceEach leaves out what was there already.
type onceEach struct{ snapshot.MergeSnapshotter }

func (s onceEach) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) error {
	seen := map[snapshot.Diff]bool{}
	var once []snapshot.Diff
	for _, d := range diffs {
		if !seen[d] {
			once = append(once, d)
		}
		seen[d] = true
	}
	return s.MergeSnapshotter.Merge(ctx, key, once, opts...)
}

type optionless struct{ snapshot.MergeSnapshotter }

func (s optionless) Merge(ctx context.Context, key string, diffs []snapshot.Diff, _ ...snapshots.Opt) error {
	return s.MergeSnapshotter.Merge(ctx, key, diffs)
}

// lenientMerge takes what is missing for empty.
type lenientMerge struct{ snapshot.MergeSnapshotter }

func (s lenientMerge) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) error {
	if err := s.MergeSnapshotter.Merge(ctx, key, diffs, opts...); !errdefs.IsNotFound(err) {
		return err
	}
	return s.MergeSnapshotter.Merge(ctx, key, nil, opts...)
}

// overwrites makes room for what it makes.
type overwrites struct{ snapshot.MergeSnapshotter }

func (s overwrites) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) error {
	if err := s.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	return s.MergeSnapshotter.Merge(ctx, key, diffs, opts...)
}

// tireless does not hear of cancellation.
type tireless struct{ snapshot.MergeSnapshotter }

func (s tireless) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) error {
	return s.MergeSnapshotter.Merge(context.WithoutCancel(ctx), key, diffs, opts...)
}

// countsLinks forgets that files of a merge are others', too.
type countsLinks struct{ snapshot.MergeSnapshotter }

func (s countsLinks) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	if _, err := s.Stat(ctx, key); err != nil {
		return snapshots.Usage{}, err
	}
	return snapshots.Usage{Inodes: 6, Size: 300_000}, nil
}

// leavesView leaves something behind when it fails.
type leavesView struct{ snapshot.MergeSnapshotter }

func (s leavesView) Merge(ctx context.Context, key string, diffs []snapshot.Diff, opts ...snapshots.Opt) error {
	err := s.MergeSnapshotter.Merge(ctx, key, diffs, opts...)
	if err != nil {
		if perr := s.Prepare(ctx, key+"-left", ""); perr != nil && !errdefs.IsAlreadyExists(perr) {
			return errors.Wrap(perr, "sabotage")
		}
	}
	return err
}
