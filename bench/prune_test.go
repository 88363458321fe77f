package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/bench/pruning"
	"github.com/layercache/cache/testutil/fixture"
)

// Both sides delete what they are to, by a budget and altogether, and each sample finds all of it again.
func TestPruneSamples(t *testing.T) {
	const records = 40
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now()}
	for _, gone := range []int{12, records} {
		w := pruneWork{records: records, gone: gone}
		require.NoError(t, e.withFixture(t.Context(), w.spec(), func(peerDir, oursDir string) error {
			for name, dir := range map[string]string{sidePeer: peerDir, sideOurs: oursDir} {
				var all []float64
				for range 2 {
					took, err := e.pruneSample(name, dir, w, &all)(t.Context())
					require.NoError(t, err, name)
					require.Positive(t, took)
					require.Greater(t, all[len(all)-1], took, "with what is collected")
				}
				require.Len(t, all, 2)
			}
			left, err := filepath.Glob(filepath.Join(e.dir, "copy-*"))
			require.NoError(t, err)
			require.Empty(t, left)
			return nil
		}))
	}
}

// A prune that deletes too little or too much is found out.
func TestPruneIsChecked(t *testing.T) {
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now()}
	w := pruneWork{records: 20, gone: 5}
	require.NoError(t, e.withFixture(t.Context(), w.spec(), func(peerDir, oursDir string) error {
		for name, dir := range map[string]string{sidePeer: peerDir, sideOurs: oursDir} {
			require.NoError(t, e.onPruned(t.Context(), name, dir, nil, func(s pruner) error {
				r, err := s.Prune(t.Context(), w.policy())
				require.NoError(t, err)
				require.Equal(t, pruning.Result{Records: 5, Bytes: 5 * fixture.SnapshotSize}, r)
				require.NoError(t, w.check(t.Context(), s, r))
				require.ErrorContains(t, pruneWork{records: 20, gone: 6}.check(t.Context(), s, r), "were reported instead of")
				require.ErrorContains(t, pruneWork{records: 21, gone: 5}.check(t.Context(), s, r), "15 records")
				_, err = s.Prune(t.Context(), pruning.Policy{Collect: func(func() error) error { return errors.New("the disk is gone") }})
				require.ErrorContains(t, err, "the disk is gone", "it collects garbage by way of the caller")
				return nil
			}), name)
		}
		return nil
	}))
}

// The exact counts, on both sides: the marks, leases and rows of a batch are a transaction each, and the peer has some for
// every record.
func TestPruneFigures(t *testing.T) {
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now()}
	w := pruneWork{records: 60, gone: 60} // fewer than a batch
	ours, err := e.pruneFigures(t.Context(), sideOurs, w)
	require.NoError(t, err)
	require.InDelta(t, 6./60, ours.Fdatasync, 1e-9)
	peer, err := e.pruneFigures(t.Context(), sidePeer, w)
	require.NoError(t, err)
	require.Greater(t, peer.Fdatasync, 4.)
	_, err = e.pruneFigures(t.Context(), "nobody", w)
	require.ErrorContains(t, err, `side "nobody" is unknown`)
}

// While all else is pruned, somebody gets one record again and again.
func TestPruneLatency(t *testing.T) {
	const records = 30
	e := &env{dir: t.TempDir(), snapshotter: "native", quick: true, start: time.Now()}
	w := pruneWork{records: records, gone: records}
	require.NoError(t, e.withFixture(t.Context(), w.spec(), func(peerDir, oursDir string) error {
		for name, dir := range map[string]string{sidePeer: peerDir, sideOurs: oursDir} {
			for _, limit := range []time.Duration{0, time.Minute} {
				var all latencies
				p99, err := e.latencySample(name, dir, records, limit, &all)(t.Context())
				require.NoError(t, err, name)
				require.Positive(t, p99)
				require.Equal(t, []float64{p99}, all.pruning)
				require.Len(t, all.idle, 1)
				require.Len(t, all.nothing, 1)
				require.Len(t, all.collecting, 1)
			}
		}
		return nil
	}))
	run := &pruneRun{result: pruning.Result{Records: 2}}
	require.ErrorContains(t, run.check(t.Context(), nil, 3), "2 of 3 records were pruned")
	run = &pruneRun{limit: time.Second}
	require.ErrorContains(t, run.check(t.Context(), nil, 3), "0 of 3 records were pruned")
}

// A slow peer is in the first pairs only, and what warms up is not counted.
func TestAlternateSlow(t *testing.T) {
	order := ""
	take := func(name string, values ...float64) sample {
		i := -1
		return func(context.Context) (float64, error) {
			order += name
			i++
			return values[i], nil
		}
	}
	e := &env{pairs: 3, start: time.Now()}
	p, o, err := e.alternateSlow(t.Context(), unitTime, 2, take("A", 30, 10), take("B", 1000, 1, 9, 2))
	require.NoError(t, err)
	require.InDelta(t, 20, p, 0)
	require.InDelta(t, 2, o, 0)
	require.Equal(t, "BABABB", order)
	require.Equal(t, []string{"", " (peer: 1 sample)", " (peer: 3 samples)"}, []string{samplesOfPeer(3, 3), samplesOfPeer(1, 9), samplesOfPeer(3, 9)})
}

// The floor is that of the same work: so many leases and rows are gone, and the fixture is as it was.
func TestPruneFloor(t *testing.T) {
	const records = 40
	e := &env{dir: t.TempDir(), snapshotter: "native", start: time.Now(), pairs: 1}
	for _, gone := range []int{12, records} {
		w := pruneWork{records: records, gone: gone}
		require.NoError(t, e.withFixture(t.Context(), w.spec(), func(_, dir string) error {
			l, err := e.pruneFloorLine(t.Context(), w, dir)
			require.NoError(t, err)
			require.Positive(t, l.Ours)
			_, err = e.pruneFloorLine(t.Context(), pruneWork{records: records + 1, gone: gone}, dir)
			require.ErrorContains(t, err, fmt.Sprintf("%d rows and %d leases are left", records-gone, records-gone), "each sample finds all of it again, and is checked")
			_, err = e.pruneFloorLine(t.Context(), pruneWork{records: records, gone: records + 1}, dir)
			require.ErrorContains(t, err, "40 rows instead of")
			return nil
		}))
	}
}

// BenchmarkPrune is rows 10 and 11 for ours alone, to look at with a profile.
func BenchmarkPrune(b *testing.B) {
	for _, gone := range []int{500, 10_000} {
		b.Run(fmt.Sprintf("gone=%d", gone), func(b *testing.B) {
			e := &env{dir: b.TempDir(), snapshotter: "native", start: time.Now()}
			w := pruneWork{records: 10_000, gone: gone}
			require.NoError(b, e.withFixture(b.Context(), w.spec(), func(_, oursDir string) error {
				var all []float64
				take, sum := e.pruneSample(sideOurs, oursDir, w, &all), 0.
				for b.Loop() {
					took, err := take(b.Context())
					require.NoError(b, err)
					sum += took
				}
				b.ReportMetric(sum/float64(b.N), "prune-ns/op")
				return nil
			}))
		})
	}
}
