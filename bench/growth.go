package main

import (
	"context"
	stderrors "errors"
	"slices"

	"github.com/pkg/errors"
)

// growthLimit bounds what a point of a plot may take, in nanoseconds: a side's line ends with its first point above it, and a
// point takes no more samples once they add up to it. Unlike a limit that breaks a sample off, this needs a sample to end; but
// the next number of records is at most 2.5 times the last, which makes it 6.25 times this for work that grows quadratically.
const growthLimit = 30e9

// growthPairs are the most that a point takes.
const growthPairs = 5

// growthCounts are the numbers of records in a full run, growthQuick those in a quick one.
var (
	growthCounts = []int{1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000}
	growthQuick  = []int{20, 50}
)

// growthWork is something whose time is plotted against the number of records.
type growthWork struct {
	// name is that of the file.
	name, title string
	// prepare makes the samples of a side on a prepared directory. done is called when they have been taken.
	prepare func(ctx context.Context, e *env, side, dir string, records int) (take sample, done func() error, err error)
}

func nothingToClose() error { return nil }

// growthWorks are rows 7, 8 and 11 for other numbers of records.
func growthWorks() []growthWork {
	return []growthWork{
		{"open", "NewManager on clean records", func(_ context.Context, e *env, side, dir string, records int) (sample, func() error, error) {
			return e.startSample(side, dir, records), nothingToClose, nil
		}},
		{"diskusage", "DiskUsage, sizes known", func(ctx context.Context, e *env, side, dir string, records int) (sample, func() error, error) {
			return e.diskUsageSample(ctx, side, dir, records)
		}},
		{"prune", "Prune of all records, garbage collection aside", func(_ context.Context, e *env, side, dir string, records int) (sample, func() error, error) {
			w, all := pruneWork{records: records, gone: records, uncollected: true}, []float64{}
			return e.pruneSample(side, dir, w, &all), nothingToClose, nil
		}},
	}
}

// growth are the measurements behind the plots, as they are in growth.json.
type growth struct {
	Machine     string `json:"machine"`
	System      string `json:"system"`
	Snapshotter string `json:"snapshotter"`
	Commit      string `json:"commit"`
	Date        string `json:"date"`
	// Limit is growthLimit.
	Limit float64  `json:"limit"`
	Plots []curves `json:"plots"`
}

// curves are one plot.
type curves struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Unit is that of all values.
	Unit string `json:"unit"`
	Peer curve  `json:"peer"`
	Ours curve  `json:"ours"`
}

// curve is one side's line.
type curve struct {
	Points []growthPoint `json:"points"`
	// Ended tells that there are no more points because the last one took longer than the limit.
	Ended bool `json:"ended"`
}

// growthPoint is the median of some samples.
type growthPoint struct {
	Records int     `json:"records"`
	Value   float64 `json:"value"`
	Samples int     `json:"samples"`
}

// add appends a point and ends the line if that took too long. The last number of records ends nothing: there is nothing
// that the line goes without.
func (c *curve) add(records int, values []float64, limit float64, last bool) {
	p := growthPoint{Records: records, Value: median(values), Samples: len(values)}
	c.Points = append(c.Points, p)
	c.Ended = p.Value > limit && !last
}

// measureGrowth measures the works for each number of records, which ascend, on one pair of directories for all works.
func (e *env) measureGrowth(ctx context.Context, works []growthWork, counts []int, limit float64) ([]curves, error) {
	plots := make([]curves, len(works))
	for i, w := range works {
		plots[i] = curves{Name: w.name, Title: w.title, Unit: unitTime}
	}
	for i, records := range counts {
		if !slices.ContainsFunc(plots, func(c curves) bool { return !c.Peer.Ended || !c.Ours.Ended }) {
			break
		}
		spec := pruneWork{records: records, gone: records}.spec()
		err := e.withFixture(ctx, spec, func(peerDir, oursDir string) error {
			for j, w := range works {
				if plots[j].Peer.Ended && plots[j].Ours.Ended {
					continue
				}
				at := growthStep{records: records, first: i == 0, last: i == len(counts)-1, limit: limit}
				if err := e.measurePoint(ctx, w, &plots[j], peerDir, oursDir, at); err != nil {
					return errors.Wrapf(err, "%s of %d records", w.name, records)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return plots, nil
}

// growthStep is one number of records.
type growthStep struct {
	records     int
	first, last bool
	limit       float64
}

// measurePoint adds a point to each line that has not ended.
func (e *env) measurePoint(ctx context.Context, w growthWork, c *curves, peerDir, oursDir string, at growthStep) (err error) {
	e.logf("  %s, %d records", w.name, at.records)
	var samples [2]sample
	for i, s := range []struct {
		side, dir string
		line      *curve
	}{{sidePeer, peerDir, &c.Peer}, {sideOurs, oursDir, &c.Ours}} {
		if s.line.Ended {
			continue
		}
		take, done, perr := w.prepare(ctx, e, s.side, s.dir, at.records)
		if perr != nil {
			return perr
		}
		defer func() { err = stderrors.Join(err, done()) }()
		samples[i] = take
	}
	if at.first && !e.quick {
		e.logf("    to warm up:")
		if _, _, err := e.alternateWithin(ctx, unitTime, at.limit, 1, samples[0], samples[1]); err != nil {
			return err
		}
	}
	p, o, err := e.alternateWithin(ctx, unitTime, at.limit, min(e.pairs, growthPairs), samples[0], samples[1])
	if err != nil {
		return err
	}
	if samples[0] != nil {
		c.Peer.add(at.records, p, at.limit, at.last)
	}
	if samples[1] != nil {
		c.Ours.add(at.records, o, at.limit, at.last)
	}
	return nil
}
