package snapshot_test

import (
	stderrors "errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/tree"
)

// onEachFilesystem runs a test on all that this process can use.
func onEachFilesystem(t *testing.T, test func(t *testing.T, r *mergeRig)) {
	for _, name := range slices.Sorted(maps.Keys(filesystems)) {
		t.Run(name, func(t *testing.T) { test(t, newMergeRig(t, name)) })
	}
}

// Random histories of layers, merged on every filesystem: the tree is that of the naive oracle, which unpacks the layers
// one after the other into a plain directory. LAYERCACHE_HISTORIES is how many are tried, 12 unless said otherwise.
// A history that failed is printed as JSON; once it is understood, it goes to testdata/histories.
// spec MRG-1, MRG-3, DIF-1, DIF-2, DIF-3, DIF-4, DIF-5, DIF-6, DIF-7, APP-1, APP-3, APP-4, APP-5, APP-6, APP-7, APP-8, APP-9, OVL-3, OVL-4;
// faults 36, 37; quirks Q59, Q60, Q61
func TestHistories(t *testing.T) { onEachFilesystem(t, checkHistories) }

func checkHistories(t *testing.T, r *mergeRig) {
	history.Configure(t, 12)
	rapid.Check(t, func(rt *rapid.T) {
		h := history.Generate(rt, r.features)
		if err := r.try(t, h, nil); err != nil {
			failed(rt, "%v\nhistory: %s", err, h)
		}
	})
}

// failed fails a check. To rapid all failures are the same, whatever is random in what they say: it makes the history smaller
// as long as it fails.
func failed(rt *rapid.T, format string, args ...any) {
	rt.Logf(format, args...)
	rt.FailNow()
}

// try plays a history in a round of its own, and lets more, unless nil, go on with the trees.
func (r *mergeRig) try(t *testing.T, h history.History, more func(*round, []tree.Tree) error) error {
	x, err := r.begin(t.Context())
	if err != nil {
		return err
	}
	trees, err := x.play(h)
	if err == nil && more != nil {
		err = more(x, trees)
	}
	return stderrors.Join(err, x.end())
}

// Histories that have found a defect once, see TestHistories.
func TestKnownHistories(t *testing.T) { onEachFilesystem(t, checkKnownHistories) }

func checkKnownHistories(t *testing.T, r *mergeRig) {
	files, err := filepath.Glob("testdata/histories/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			h, err := history.Parse(data)
			require.NoError(t, err)
			require.NoError(t, r.try(t, h.For(r.features), nil))
		})
	}
}

// The difference between any two snapshots, applied on the lower one, gives the upper one, as far as spec DIF-7 lets one see what differs
// (spec MRG-1, DIF-4, DIF-7, APP-9, OVL-4).
func TestDiffOnLowerIsUpper(t *testing.T) { onEachFilesystem(t, checkDiffOnLower) }

func checkDiffOnLower(t *testing.T, r *mergeRig) {
	history.Configure(t, 8)
	rapid.Check(t, func(rt *rapid.T) {
		h := history.Generate(rt, r.features)
		lower, upper := rapid.IntRange(0, len(h)).Draw(rt, "lower"), rapid.IntRange(1, len(h)).Draw(rt, "upper")
		err := r.try(t, h, func(x *round, trees []tree.Tree) error { return x.checkDiff(trees, lower, upper) })
		if err != nil {
			failed(rt, "%v\nlower %d, upper %d of history: %s", err, lower, upper, h)
		}
	})
}

func (r *round) checkDiff(trees []tree.Tree, lower, upper int) error {
	diffs := []history.Diff{{Upper: lower}, {Lower: lower, Upper: upper}}
	key := r.name(len(trees))
	if err := r.merge(key, diffs); err != nil {
		return err
	}
	got, err := r.read(key)
	if err != nil {
		return err
	}
	n, err := r.base(diffs)
	if err != nil {
		return err
	}
	want, except := history.Visible(trees[lower], trees[upper]), []tree.Aspect{tree.Root, tree.Links}
	if n == len(diffs) { // it is made of nothing but a snapshot
		want, except = trees[upper], except[:1]
	}
	if list := tree.Diff(want, got, except...); len(list) > 0 {
		return errors.Errorf("not the upper tree:\n  %s", strings.Join(list, "\n  "))
	}
	return nil
}
