package cache

import (
	"context"
	stderrors "errors"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/usage"
)

func (m *manager) DiskUsage(ctx context.Context, info usage.DiskUsageInfo) ([]*usage.Info, error) {
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrap(err, "measuring the disk usage")
	}
	defer m.life.end()
	filter, err := parseFilter(info.Filter)
	if err != nil {
		return nil, err
	}
	views := m.g.View()
	checker, err := m.newChecker()
	if err != nil {
		return nil, err
	}
	m.markShared(views, checker)
	var (
		out     []*usage.Info
		unknown []measurement
	)
	now := m.opt.Now()
	for i := range views {
		v := &views[i]
		u := usageOf(v)
		if !filter.Match(filterable(u)) || tooYoung(u, now, info.AgeLimit) {
			continue
		}
		out = append(out, u)
		if v.Mutable && v.InUse { // it is being written (spec DU-5)
			u.Size = 0
		} else if v.Size < 0 {
			u.Size = 0
			unknown = append(unknown, measurement{v.Record, &u.Size})
		}
	}
	return out, m.measure(ctx, unknown)
}

// usageOf describes a record by the name that stands for it.
func usageOf(v *graph.View) *usage.Info {
	u := &usage.Info{
		ID: v.Meta.ID, Mutable: v.Mutable, InUse: v.InUse, Size: v.Size,
		CreatedAt: unixTime(v.Meta.CreatedAt), UsageCount: v.Meta.UsageCount,
		Parents: v.Parents, Description: v.Meta.Description, RecordType: usage.RecordType(v.Meta.RecordType),
		Shared: v.Shared,
	}
	if u.RecordType == "" {
		u.RecordType = usage.TypeRegular
	}
	if v.Meta.LastUsedAt != 0 {
		t := unixTime(v.Meta.LastUsedAt)
		u.LastUsedAt = &t
	}
	return u
}

// tooYoung tells whether the record was used within limit; one that was never used is not (spec DU-6).
func tooYoung(u *usage.Info, now time.Time, limit time.Duration) bool {
	return limit > 0 && u.LastUsedAt != nil && u.LastUsedAt.After(now.Add(-limit))
}

// newChecker makes the checker of external references; nil where none is configured.
func (m *manager) newChecker() (ExternalRefChecker, error) {
	if m.opt.PruneRefChecker == nil {
		return nil, nil //nolint:nilnil // there is none
	}
	checker, err := m.opt.PruneRefChecker()
	return checker, errors.Wrap(err, "making the checker of external references")
}

// markShared asks the checker, which may be nil, about every record, and marks those it knows
// with all their ancestors (spec DU-4). The checker runs unlocked, on copies.
func (m *manager) markShared(views []graph.View, checker ExternalRefChecker) {
	if checker == nil {
		return
	}
	var shared []*graph.Record
	for i := range views {
		v := &views[i]
		var blobs []digest.Digest
		for _, d := range m.g.BlobDigests(v.Record) {
			blobs = append(blobs, digest.Digest(d))
		}
		if checker.Exists(v.Meta.ID, blobs) {
			shared = append(shared, v.Record)
		}
	}
	marked := graph.WithAncestors(shared)
	for i := range views {
		views[i].Shared = marked[views[i].Record]
	}
}

// fields that a filter may name (spec FLT-2); anything else is an error rather than a filter that
// silently matches nothing, or everything.
var filterFields = map[string]bool{
	"id": true, "parents": true, "description": true, "type": true,
	"inuse": true, "mutable": true, "immutable": true, "shared": true, "private": true,
}

// parseFilter parses filter expressions, which are OR-ed; none matches everything (spec FLT-1).
func parseFilter(exprs []string) (filters.Filter, error) {
	if len(exprs) == 0 {
		return filters.Always, nil
	}
	f, err := filters.ParseAll(exprs...)
	if err != nil {
		return nil, errors.Wrapf(errInvalid, "filter %q: %v", exprs, err)
	}
	if name := unknownField(f); name != "" {
		return nil, errors.Wrapf(errInvalid, "filter %q: unknown field %q", exprs, name)
	}
	return f, nil
}

// unknownField returns a field that a filter names and no record has, or "". Each selector is
// asked by itself, since a filter stops at the first that decides.
func unknownField(f filters.Filter) string {
	var parts []filters.Filter
	switch f := f.(type) {
	case filters.Any:
		parts = f
	case filters.All:
		parts = f
	default:
		probe := &fieldProbe{}
		f.Match(probe)
		return probe.unknown
	}
	for _, p := range parts {
		if name := unknownField(p); name != "" {
			return name
		}
	}
	return ""
}

// fieldProbe is an adaptor that finds out which field a selector asks for.
type fieldProbe struct{ unknown string }

func (p *fieldProbe) Field(path []string) (string, bool) {
	if name := strings.Join(path, "."); !filterFields[name] {
		p.unknown = name
	}
	return "", false
}

func filterable(u *usage.Info) filters.Adaptor {
	return filters.AdapterFunc(func(path []string) (string, bool) {
		if len(path) != 1 {
			return "", false
		}
		switch path[0] {
		case "id":
			return u.ID, u.ID != ""
		case "parents":
			return strings.Join(u.Parents, ";"), len(u.Parents) > 0
		case "description":
			return u.Description, u.Description != ""
		case "type":
			return string(u.RecordType), u.RecordType != ""
		case "inuse":
			return "", u.InUse
		case "mutable":
			return "", u.Mutable
		case "immutable":
			return "", !u.Mutable
		case "shared":
			return "", u.Shared
		case "private":
			return "", !u.Shared
		}
		return "", false
	})
}

// measurement is a record whose size is to be found out, and where to put it.
type measurement struct {
	rec  *graph.Record
	size *int64
}

// measureLimit bounds how many sizes are measured at a time: walking trees is disk work, of which
// more at a time than this gains nothing.
func measureLimit() int { return 2 * runtime.GOMAXPROCS(0) }

// measure fills in unknown sizes and remembers them. Errors do not stop the others.
func (m *manager) measure(ctx context.Context, unknown []measurement) error {
	var (
		mu   sync.Mutex
		errs []error
		g    errgroup.Group
	)
	g.SetLimit(measureLimit())
	for _, u := range unknown {
		g.Go(func() error {
			size, err := m.size(ctx, u.rec)
			*u.size = size
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, errors.Wrapf(err, "measuring record %q", nameOf(m.g.Status(u.rec))))
			}
			return nil
		})
	}
	_ = g.Wait() // no function returns an error
	return stderrors.Join(errs...)
}

// size returns what a record occupies, measuring it once for all who ask (spec SIZE-1, SIZE-3).
func (m *manager) size(ctx context.Context, rec *graph.Record) (int64, error) {
	if st := m.g.Status(rec); st.Size >= 0 {
		return st.Size, nil
	}
	return m.sizes.Do(ctx, rec, func(ctx context.Context) (int64, error) {
		st := m.g.Status(rec)
		size, known, err := m.measureRecord(ctx, rec, st)
		if err != nil {
			if m.g.Status(rec).State == graph.Gone {
				err = nil // it went meanwhile (spec SIZE-2)
			}
			return 0, err
		}
		if !known {
			return size, nil
		}
		if id, ok := m.g.SetSize(rec, st.SizeGen, size); ok {
			err = m.store.LaterInts(id, metadata.Int{Key: keySize, Value: size})
		}
		return size, err
	})
}

// measureRecord sums up the snapshot, the blob and the other local compressions of it. The sum is not known, and not to be remembered, as
// long as the record's snapshot is still to come (spec SIZE-5, quirk Q35).
func (m *manager) measureRecord(ctx context.Context, rec *graph.Record, st graph.Status) (size int64, known bool, err error) {
	known = st.State != graph.Lazy
	key := st.ImmSnapshot
	if st.Mut != "" && !st.SnapshotCommitted {
		key = st.MutSnapshot
	}
	if st.Blob == nil || !st.Blob.Only {
		u, err := m.opt.Snapshotter.Usage(ctx, key)
		switch {
		case err == nil:
			below, own, err := m.sizeOfBase(ctx, rec, key)
			if err != nil {
				return 0, false, errors.Wrapf(err, "what snapshot %q lies on", key)
			}
			size += u.Size + below
			known = own // else it grows when the merge goes that it lies on
		case !errdefs.IsNotFound(err):
			return 0, false, errors.Wrapf(err, "snapshot %q", key)
		}
	}
	if st.Blob != nil && isDigest(st.Blob.Digest) {
		blobs, local, err := m.sizeOfBlobs(ctx, digest.Digest(st.Blob.Digest))
		if err != nil {
			return 0, false, err
		}
		size += blobs
		known = known || local && st.Blob.Only // a pull or an extraction voids it
	}
	return size, known, nil
}
