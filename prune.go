package cache

import (
	"context"
	stderrors "errors"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/usage"
)

// pruneBatch is how many records are deleted in one go: their marks share a transaction, and so do
// their leases and their rows.
const pruneBatch = 64

// prunePolicy is a policy whose filters have been parsed.
type prunePolicy struct {
	usage.PruneInfo
	filter filters.Filter
}

// budgeted tells whether the policy names an amount of space; without one everything eligible goes (spec PRN-5).
func (p *prunePolicy) budgeted() bool {
	return p.ReservedSpace != 0 || p.MaxUsedSpace != 0 || p.MinFreeSpace != 0
}

// eligible tells whether the policy allows a record to go (spec PRN-7 to PRN-10).
func (p *prunePolicy) eligible(v *graph.View, now time.Time) bool {
	if v.Held || v.Links > 0 {
		return false
	}
	u := usageOf(v)
	if !p.All && (u.RecordType == usage.TypeInternal || u.RecordType == usage.TypeFrontend || u.Shared) {
		return false
	}
	return !tooYoung(u, now, p.KeepDuration) && p.filter.Match(filterable(u))
}

func parsePolicies(infos []usage.PruneInfo) ([]prunePolicy, error) {
	out := make([]prunePolicy, len(infos))
	for i, info := range infos {
		if info.ReservedSpace < 0 || info.MaxUsedSpace < 0 || info.MinFreeSpace < 0 || info.KeepDuration < 0 {
			return nil, errors.Wrapf(errInvalid, "prune policy %d has a negative limit", i)
		}
		f, err := parseFilter(info.Filter)
		if err != nil {
			return nil, errors.Wrapf(err, "prune policy %d", i)
		}
		out[i] = prunePolicy{PruneInfo: info, filter: f}
	}
	return out, nil
}

func (m *manager) Prune(ctx context.Context, ch chan usage.Info, infos ...usage.PruneInfo) error {
	if err := m.life.begin(); err != nil {
		return errors.Wrap(err, "pruning")
	}
	defer m.life.end()
	policies, err := parsePolicies(infos)
	if err != nil {
		return err
	}
	leave, err := m.pruneSlot.Enter(ctx, struct{}{})
	if err != nil {
		return err
	}
	defer leave()
	if err := m.finishRemovals(ctx); err != nil {
		return err
	}
	for i := range policies {
		if err := m.prunePolicy(ctx, ch, &policies[i]); err != nil {
			return err
		}
	}
	if m.opt.GarbageCollect == nil {
		return nil
	}
	_, err = m.opt.GarbageCollect(ctx)
	return errors.Wrap(err, "collecting garbage")
}

// prunePolicy deletes what one policy allows, round by round: what was a parent may go once its children have.
func (m *manager) prunePolicy(ctx context.Context, ch chan usage.Info, p *prunePolicy) error {
	consult := !p.All || len(p.Filter) > 0 // spec PRN-3
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		views := m.g.View()
		if consult {
			if err := m.markShared(views); err != nil {
				return err
			}
		}
		victims, err := m.chooseVictims(ctx, p, views)
		if err != nil || len(victims) == 0 {
			return err
		}
		if err := m.pruneViews(ctx, ch, victims); err != nil {
			return err
		}
	}
}

// chooseVictims returns what is to go next: a batch without a budget, one record at a time with one.
func (m *manager) chooseVictims(ctx context.Context, p *prunePolicy, views []graph.View) ([]*graph.View, error) {
	var candidates []*graph.View
	now := m.opt.Now()
	for i := range views {
		if p.eligible(&views[i], now) {
			candidates = append(candidates, &views[i])
		}
	}
	if len(candidates) == 0 {
		return nil, nil
	}
	if !p.budgeted() {
		return candidates[:min(len(candidates), pruneBatch)], nil
	}
	total, err := m.measureViews(ctx, views)
	if err != nil {
		return nil, err
	}
	free := int64(0)
	if p.MinFreeSpace != 0 {
		if m.opt.Root == "" {
			return nil, errors.Wrap(errInvalid, "a policy with MinFreeSpace needs manager option Root")
		}
		if free, err = freeSpace(m.opt.Root); err != nil {
			return nil, errors.Wrapf(err, "asking for the free space of %q", m.opt.Root)
		}
	}
	if total <= budget(p.PruneInfo, total, free) { // spec PRN-6
		return nil, nil
	}
	return []*graph.View{lowestScore(candidates)}, nil
}

// measureViews fills in unknown sizes and returns the total of what is not shared (spec PRN-4).
func (m *manager) measureViews(ctx context.Context, views []graph.View) (int64, error) {
	var unknown []measurement
	for i := range views {
		v := &views[i]
		if v.Mutable && v.InUse { // as DiskUsage has it (spec DU-5)
			v.Size = 0
		}
		if v.Size < 0 {
			unknown = append(unknown, measurement{v.Record, &v.Size})
		}
	}
	if err := m.measure(ctx, unknown); err != nil {
		return 0, err
	}
	var total int64
	for i := range views {
		if v := &views[i]; !v.Shared {
			total += max(v.Size, 0)
		}
	}
	return total, nil
}

// budget is how many bytes may stay (spec PRN-5). total is what the cache occupies, free what an
// unprivileged writer could still use.
func budget(p usage.PruneInfo, total, free int64) int64 {
	keep, capped := p.MaxUsedSpace, p.MaxUsedSpace != 0
	switch missing := p.MinFreeSpace - free; {
	case p.MinFreeSpace != 0 && missing > 0:
		if !capped || total-missing < keep {
			keep = total - missing
		}
	case p.MinFreeSpace != 0 && !capped:
		keep = total
	}
	return max(keep, p.ReservedSpace, 0)
}

// pruneViews condemns and deletes records and reports those it deleted. Sizes are found out before, while
// the data is there.
func (m *manager) pruneViews(ctx context.Context, ch chan usage.Info, victims []*graph.View) error {
	var (
		recs    []*graph.Record
		reports []*usage.Info
		unknown []measurement
	)
	for _, v := range victims {
		if !m.g.Condemn(v.Record, v.Gen) {
			continue // somebody took it meanwhile
		}
		u := usageOf(v)
		if u.Size < 0 {
			u.Size = 0
			unknown = append(unknown, measurement{v.Record, &u.Size})
		}
		u.InUse = false
		recs = append(recs, v.Record)
		reports = append(reports, u)
	}
	if len(recs) == 0 {
		return nil
	}
	merr := m.measure(ctx, unknown) // what cannot be measured goes all the same, as 0 bytes
	err := m.remove(context.WithoutCancel(ctx), "pruned", recs...)
	for _, rec := range recs {
		m.reportEvents(rec)
	}
	if err != nil {
		return stderrors.Join(err, merr)
	}
	for _, u := range reports {
		if ch == nil {
			break
		}
		select {
		case ch <- *u:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return merr
}
