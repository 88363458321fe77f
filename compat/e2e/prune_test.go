package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/subset"
)

// filled are how many images fill makes, each with a layer of a megabyte of its own.
const filled = 5

// mounted is a part of the description of a cache mount.
const mounted = "cached mount /cache"

// fill makes images, one after the other, as far as they are not there, and a cache mount with the step that uses it, both anew.
func fill(h *host) {
	h.t.Helper()
	_, err := h.Prune(h.t.Context(), "--filter", "description~=count")
	require.NoError(h.t, err)
	for i := range filled {
		h.build(Build{Dockerfile: dockerfile(`FROM base`, fmt.Sprintf(`RUN ["box", "fill", "/file", "1000000", "seed%d"]`, i+1))})
	}
	h.build(Build{Dockerfile: dockerfile(`FROM base`, `RUN --mount=type=cache,target=/cache ["box", "count", "/cache/n", "/made/count"]`)})
}

// budget returns arguments that leave space for so many of the layers less than there are, in halves; with native each is a copy of
// all that is below it, too.
func budget(halves int64, args ...string) func([]*client.UsageInfo) []string {
	return func(records []*client.UsageInfo) []string {
		keep := Sum(records)
		for _, r := range records {
			if strings.HasSuffix(r.Description, "seed1") {
				keep -= r.Size * halves / 2
			}
		}
		args := slices.Clone(args)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "KEEP", fmt.Sprintf("%.3f", float64(keep)/1e6))
		}
		return args
	}
}

// seeds tells of which of the images a list has the layer.
func seeds(descriptions []string) (seeds []int) {
	for i := range filled {
		if slices.ContainsFunc(descriptions, func(d string) bool { return strings.HasSuffix(d, fmt.Sprintf("seed%d", i+1)) }) {
			seeds = append(seeds, i+1)
		}
	}
	return seeds
}

// pruned is what one prune did.
type pruned struct{ Gone, Left []string }

// TestPrune prunes with each of the flags, on a cache that is filled again each time. What both sides delete is the same.
// spec PRN-2, PRN-5, PRN-6, PRN-8, PRN-9, PRN-10, PRN-11, PRN-12, PRN-16, fault 19
func TestPrune(t *testing.T) {
	both(t, func(t *testing.T, h *host) map[string]pruned {
		done := map[string]pruned{}
		for _, c := range []struct {
			name string
			args func([]*client.UsageInfo) []string
			want []int // the layers that go
			// gone is what has to go besides, if anything, and kept is what may not go.
			gone, kept string
		}{
			{"type", fixed("--filter", "type==exec.cachemount"), nil, mounted, "seed1"},
			{"description", fixed("--filter", "description~=seed[24]"), []int{2, 4}, "", mounted},
			{"two filters", fixed("--filter", "description~=seed1", "--filter", "type==exec.cachemount"), []int{1}, mounted, ""},
			{"one hour", fixed("--keep-duration", "1h"), nil, "", mounted},
			{"one nanosecond", fixed("--keep-duration", "1ns"), []int{1, 2, 3, 4, 5}, mounted, ""},
			{"size", budget(5, "--keep-storage", "KEEP"), []int{1, 2, 3}, "", "seed4"},
			{"reserve", budget(3, "--keep-storage-min", "KEEP"), []int{1, 2}, "", "seed3"},
			{"size and reserve", budget(3, "--keep-storage", "1", "--keep-storage-min", "KEEP"), []int{1, 2}, "", "seed3"},
			{"free space", budget(1, "--free-storage", "1000000000", "--keep-storage-min", "KEEP"), []int{1}, "", "seed2"},
			{"nothing said", fixed(), []int{1, 2, 3, 4, 5}, mounted, ""},
			{"all", fixed("--all"), []int{1, 2, 3, 4, 5}, "local source for ", ""},
		} {
			fill(h)
			all := describe(h.usage())
			require.Equal(t, []int{1, 2, 3, 4, 5}, seeds(all))
			gone, left := h.prune(c.args(h.usage())...)
			require.Equal(t, c.want, seeds(gone), "%s: %q", c.name, gone)
			if c.gone != "" {
				require.Contains(t, strings.Join(gone, "\n"), c.gone, c.name)
			}
			if c.kept != "" {
				require.Contains(t, strings.Join(left, "\n"), c.kept, c.name)
			}
			done[c.name] = pruned{gone, left}
		}
		require.Empty(t, h.usage())
		_, err := h.Prune(t.Context(), "--filter", "type")
		require.NoError(t, err, "whether a type is there is a filter, too")
		_, err = h.Prune(t.Context(), "--filter", "type==")
		require.Error(t, err)
		return done
	})
}

// fixed are arguments that do not depend on what is in the cache.
func fixed(args ...string) func([]*client.UsageInfo) []string {
	return func([]*client.UsageInfo) []string { return args }
}

// TestEnoughFree prunes for free space that is there: nothing goes. BuildKit as it is deletes one record nevertheless.
// spec PRN-5, PRN-6, quirk Q66
func TestEnoughFree(t *testing.T) {
	for _, snapshotter := range snapshotters() {
		t.Run(snapshotter, func(t *testing.T) {
			subset.Skip(t)
			t.Parallel()
			h := newHost(t, Ours, snapshotter)
			fill(h)
			gone, _ := h.prune("--free-storage", "0.001")
			require.Empty(t, gone)
			h.stop()
		})
	}
}

// TestUsage compares what both report of a cache: records, their types and whether they are shared.
// spec DU-1, DU-2, fault 15
func TestUsage(t *testing.T) {
	type row struct {
		What            string
		Mutable, Shared bool
		Parents         int
	}
	both(t, func(t *testing.T, h *host) (rows []row) {
		require.Empty(t, h.usage())
		h.build(Build{Dockerfile: tool, Context: contextDir(t, toolFiles())})
		for _, r := range h.usage() {
			rows = append(rows, row{string(r.RecordType) + ": " + r.Description, r.Mutable, r.Shared, len(r.Parents)})
			require.NotEmpty(t, r.ID)
			require.NotZero(t, r.CreatedAt)
			require.NotNil(t, r.LastUsedAt, r.Description)
			require.NotZero(t, r.UsageCount, r.Description)
		}
		slices.SortFunc(rows, func(a, b row) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		only := describe(h.usage("--filter", "type==exec.cachemount"))
		require.Len(t, only, 1)
		require.Contains(t, only[0], mounted)
		return rows
	})
}
