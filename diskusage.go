package cache

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/usage"
)

func (m *manager) DiskUsage(ctx context.Context, info usage.DiskUsageInfo) ([]*usage.Info, error) {
	var out []*usage.Info
	err := m.WalkUsage(ctx, info, func(u *usage.Info) error {
		out = append(out, u)
		return nil
	})
	return out, err
}

func (m *manager) WalkUsage(ctx context.Context, info usage.DiskUsageInfo, fn func(*usage.Info) error) error {
	if err := m.life.begin(); err != nil {
		return errors.Wrap(err, "measuring the disk usage")
	}
	defer m.life.end()
	filter, err := parseFilter(info.Filter)
	if err != nil {
		return err
	}
	policies, err := m.parsePolicies(info.Policies)
	if err != nil {
		return err
	}
	views := m.g.View()
	checker, err := m.newChecker()
	if err != nil {
		return err
	}
	m.markShared(views, checker)
	var wanted []int
	now := m.opt.Now()
	for i := range views {
		if v := &views[i]; matches(filter, v) && !tooYoung(v, now, info.AgeLimit) {
			wanted = append(wanted, i)
		}
	}
	a, unmeasured := m.account(ctx, views, wanted)
	verdicts, err := m.verdicts(ctx, policies)
	if err != nil {
		return err
	}
	for _, i := range wanted {
		u := usageOf(&views[i])
		u.Size, u.Verdict = a.size(i), verdicts[views[i].Record]
		if err := fn(u); err != nil {
			return err
		}
	}
	return unmeasured
}

// usageOf describes a record by the name that stands for it.
func usageOf(v *graph.View) *usage.Info {
	u := &struct { // one allocation instead of two
		usage.Info
		lastUsedAt time.Time
	}{Info: usage.Info{
		ID: v.Meta.ID, Mutable: v.Mutable, InUse: v.InUse, Size: v.Size,
		CreatedAt: unixTime(v.Meta.CreatedAt), UsageCount: v.Meta.UsageCount,
		Parents: v.Parents, Description: v.Meta.Description, RecordType: usage.RecordType(v.Meta.RecordType),
		Shared: v.Shared,
	}}
	if u.RecordType == "" {
		u.RecordType = usage.TypeRegular
	}
	if v.Meta.LastUsedAt != 0 {
		u.lastUsedAt = unixTime(v.Meta.LastUsedAt)
		u.LastUsedAt = &u.lastUsedAt
	}
	return &u.Info
}

// tooYoung tells whether the record was used within limit; one that was never used is not (spec DU-6).
func tooYoung(v *graph.View, now time.Time, limit time.Duration) bool {
	return limit > 0 && v.Meta.LastUsedAt != 0 && unixTime(v.Meta.LastUsedAt).After(now.Add(-limit))
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

// parseFilter parses filter expressions, which are OR-ed; none gives no filter (spec FLT-1).
func parseFilter(exprs []string) (filters.Filter, error) {
	if len(exprs) == 0 {
		return nil, nil //nolint:nilnil // there is none
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

// matches tells whether a filter matches a record; one that is nil matches all.
func matches(f filters.Filter, v *graph.View) bool {
	return f == nil || f.Match(filterable(usageOf(v)))
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
