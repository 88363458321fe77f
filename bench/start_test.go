package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/fixture"
)

// Both sides take the prepared directory for their own: all records are there, can be got, and
// nothing was repaired or measured where the sizes are known.
func TestFixture(t *testing.T) {
	const records, mutable = 25, 3
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now()}
	spec := fixture.Spec{Records: records, Chain: chain, Mutable: mutable, SizesKnown: true}
	require.NoError(t, e.withFixture(t.Context(), spec, func(peerDir, oursDir string) error {
		peer, ours, err := e.startFigures(t.Context(), peerDir, oursDir)
		require.NoError(t, err)
		for _, f := range []*startFigures{&peer, &ours} {
			require.Positive(t, f.Heap)
			f.Heap = 0
		}
		require.Equal(t, startFigures{Stats: mutable}, peer)
		require.Equal(t, startFigures{Stats: mutable, Listings: 1}, ours)
		for name, dir := range map[string]string{sidePeer: peerDir, sideOurs: oursDir} {
			s, err := openSide(t.Context(), name, dir, e.snapshotter, nil)
			require.NoError(t, err)
			require.NoError(t, checkSide(t.Context(), s, records+mutable))
			id, err := s.NewLayer(t.Context())
			require.NoError(t, err)
			require.NoError(t, s.GetRelease(t.Context(), id))
			require.NoError(t, s.Close())
		}
		_, err = e.startSample(sideOurs, oursDir, records)(t.Context())
		require.ErrorContains(t, err, fmt.Sprintf("wrong result of ours: %d records", records+mutable+1))
		return nil
	}))
}

// Unknown sizes are measured on a copy, so that they are unknown to the next sample as well.
func TestUnknownSizes(t *testing.T) {
	const records = 12
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now()}
	require.NoError(t, e.withFixture(t.Context(), fixture.Spec{Records: records, Chain: chain}, func(peerDir, oursDir string) error {
		for name, dir := range map[string]string{sidePeer: peerDir, sideOurs: oursDir} {
			var all []float64
			took, err := e.unknownSample(name, dir, records, &all)(t.Context())
			require.NoError(t, err)
			require.Len(t, all, 1)
			require.Greater(t, all[0], took)
			copies, err := filepath.Glob(filepath.Join(e.dir, "copy-*"))
			require.NoError(t, err)
			require.Empty(t, copies)
		}
		return nil
	}))
}

func TestJudgeOursAlone(t *testing.T) {
	within := line{Unit: unitTime, Ours: 1e9, MaxOurs: 1e9}
	beyond := line{Unit: unitTime, Ours: 2e9, MaxOurs: 1e9}
	within.judge()
	beyond.judge()
	require.True(t, within.Met)
	require.False(t, beyond.Met)
	require.Equal(t, []string{"0", "", "-", "2.00 s", "-", "", "NO"}, mainTable([]line{beyond}).cells[0])
}

// BenchmarkNewManager is row 7 for ours alone, to look at with a profile.
func BenchmarkNewManager(b *testing.B) {
	for _, records := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("records=%d", records), func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "cache")
			spec := fixture.Spec{Snapshotter: "native", Records: records, Chain: chain, SizesKnown: true}
			require.NoError(b, fixture.Make(b.Context(), dir, spec))
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, onPrepared(b.Context(), sideOurs, dir, "native", nil, -1, starter.Start))
			}
		})
	}
}
