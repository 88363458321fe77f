package main

import (
	"context"
	"fmt"
	"slices"
)

// row is one row of bench.md. It may give several lines, for several sizes or snapshotters.
type row struct {
	number int
	title  string
	run    func(ctx context.Context, e *env) ([]line, error)
}

// allRows lists the rows that exist, in order. A new one is a file of its own and an entry here.
func allRows() []row {
	rows := []row{
		getReleaseRow(),
		getReleaseParallelRow(),
		commitRow(),
		commitParallelRow(),
		blobMissRow(),
		blobHitRow(),
		startRow(),
		diskUsageKnownRow(),
		diskUsageUnknownRow(),
		pruneBudgetRow(),
		pruneAllRow(),
		pruneLatencyRow(),
		mergeRow(),
		diffRow(),
		cloneRow(),
		blobRow(),
		pullRow(),
		heapRow(),
		importsRow(),
	}
	slices.SortStableFunc(rows, func(a, b row) int { return a.number - b.number })
	return rows
}

// line is one line of the table.
type line struct {
	// Row and Met are set by the runner.
	Row  int    `json:"row"`
	Work string `json:"work"`
	// Unit of Peer and Ours; less is better. Peer is 0 where ours is measured alone.
	Unit string  `json:"unit"`
	Peer float64 `json:"peer"`
	Ours float64 `json:"ours"`
	// Ratio is Peer / Ours.
	Ratio float64 `json:"ratio"`
	// Target is the target in words; MinRatio is the part of it that Ratio must reach.
	Target   string  `json:"target"`
	MinRatio float64 `json:"min_ratio"`
	// MaxOurs is what Ours may be at most, 0 for no bound.
	MaxOurs float64 `json:"max_ours,omitempty"`
	// Met tells whether the ratio, Ours and all counts are within the target.
	Met    bool    `json:"met"`
	Counts []count `json:"counts,omitempty"`
}

// count is something counted exactly.
type count struct {
	What string `json:"what"`
	// Peer and Ours are nil if the side was not counted, Limit if there is none for ours.
	Peer  *float64 `json:"peer,omitempty"`
	Ours  *float64 `json:"ours,omitempty"`
	Limit *float64 `json:"limit,omitempty"`
	Met   bool     `json:"met"`
}

func number(v float64) *float64 { return &v }

// judge fills in what follows from the measurements.
func (l *line) judge() {
	l.Ratio = ratio(l.Peer, l.Ours)
	l.Met = l.Ratio >= l.MinRatio && (l.MaxOurs == 0 || l.Ours <= l.MaxOurs)
	for i := range l.Counts {
		c := &l.Counts[i]
		c.Met = c.Limit == nil || c.Ours != nil && *c.Ours <= *c.Limit
		l.Met = l.Met && c.Met
	}
}

func (c count) verdict() string {
	if c.Ours == nil {
		return fmt.Sprintf("%s was not counted, the limit is %s", c.What, plain(c.Limit))
	}
	return fmt.Sprintf("%s: %s, the limit is %s", c.What, plain(c.Ours), plain(c.Limit))
}
