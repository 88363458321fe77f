package e2e

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/moby/buildkit/client"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
)

// Usage is what `buildctl du` reports, with more arguments if there are any.
func (d *Daemon) Usage(ctx context.Context, args ...string) ([]*client.UsageInfo, error) {
	out, err := d.output(ctx, append([]string{"du", "--format={{json .}}"}, args...)...)
	if err != nil {
		return nil, err
	}
	var records []*client.UsageInfo
	return records, errors.Wrapf(json.Unmarshal(out, &records), "buildctl du: %s", out)
}

// Prune is what `buildctl prune` says that it has deleted, with the arguments that are given.
func (d *Daemon) Prune(ctx context.Context, args ...string) ([]*client.UsageInfo, error) {
	out, err := d.output(ctx, append([]string{"prune", "--format={{json .}}"}, args...)...)
	if err != nil {
		return nil, err
	}
	var records []*client.UsageInfo
	for line := range bytes.Lines(out) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var r client.UsageInfo
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, errors.Wrapf(err, "buildctl prune: %s", out)
		}
		records = append(records, &r)
	}
	return records, nil
}

// Sum adds up sizes.
func Sum(records []*client.UsageInfo) (bytes int64) {
	for _, r := range records {
		bytes += r.Size
	}
	return bytes
}

// State is what the library finds in the directory of a worker whose daemon has ended.
type State struct {
	// Findings are contradictions between records, leases, snapshots and blobs.
	Findings []cache.Finding
	// Repaired are records that the next start repairs or drops.
	Repaired []cache.Event
}

// Look compares what the worker's directory holds, of which nothing is changed.
func (c Config) Look(ctx context.Context) (s State, err error) {
	i, err := local.Inspect(ctx, c.Worker(), local.InspectOptions{Snapshotter: c.Snapshotter, TempDir: c.temp()})
	if err != nil {
		return s, err
	}
	s.Repaired = i.Repaired
	s.Findings, err = i.Check(ctx)
	if cerr := i.Close(); err == nil {
		err = cerr
	}
	return s, err
}
