package cache

import (
	"context"
	stderrors "errors"
	"slices"
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

// parsePolicies judges all policies, so that nothing is deleted for the first while the last is invalid (spec PRN-2).
func (m *manager) parsePolicies(infos []usage.PruneInfo) ([]prunePolicy, error) {
	out := make([]prunePolicy, len(infos))
	for i, info := range infos {
		if info.ReservedSpace < 0 || info.MaxUsedSpace < 0 || info.MinFreeSpace < 0 || info.KeepDuration < 0 {
			return nil, errors.Wrapf(errInvalid, "prune policy %d has a negative limit", i)
		}
		if info.MinFreeSpace != 0 && m.opt.Root == "" {
			return nil, errors.Wrapf(errInvalid, "prune policy %d has MinFreeSpace, which needs manager option Root", i)
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
	policies, err := m.parsePolicies(infos)
	if err != nil {
		return err
	}
	leave, err := m.pruneSlot.Enter(ctx, struct{}{})
	if err != nil {
		return err
	}
	p := &pruning{m: m, ch: ch}
	defer func() {
		if p.rest == nil {
			leave()
			return
		}
		m.life.goOn(func() { <-p.rest; leave() }) // the next prune sees what this one leaves
	}()
	err = p.detached(ctx, func(ctx context.Context) error {
		m.finishRemovals(ctx)
		return nil
	})
	if err != nil {
		return err
	}
	for i := range policies {
		if err := p.run(ctx, &policies[i]); err != nil {
			return err
		}
	}
	if m.opt.GarbageCollect == nil {
		return nil
	}
	_, err = m.opt.GarbageCollect(ctx)
	return errors.Wrap(err, "collecting garbage")
}

// pruning is one call of Prune.
type pruning struct {
	m  *manager
	ch chan usage.Info
	// checker is made at most once a call.
	checker ExternalRefChecker
	// rest is work that goes on after the caller's context ended.
	rest <-chan struct{}
}

func (p *pruning) detached(ctx context.Context, fn func(ctx context.Context) error) (err error) {
	p.rest, err = p.m.detached(ctx, fn)
	return err
}

// view looks at all records, and asks the external checker about them where the policy cares (spec PRN-3).
func (p *pruning) view(policy *prunePolicy) ([]graph.View, error) {
	views := p.m.g.View()
	if policy.All && len(policy.Filter) == 0 {
		return views, nil
	}
	if p.checker == nil {
		var err error
		if p.checker, err = p.m.newChecker(); err != nil {
			return nil, err
		}
	}
	p.m.markShared(views, p.checker)
	return views, nil
}

// run deletes what one policy allows, round by round: what was a parent may go once its children have.
func (p *pruning) run(ctx context.Context, policy *prunePolicy) error {
	if policy.budgeted() {
		return p.runBudget(ctx, policy)
	}
	for {
		views, err := p.view(policy)
		if err != nil {
			return err
		}
		gone := 0
		for batch := range slices.Chunk(policy.candidates(views, p.m.opt.Now()), pruneBatch) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, _, err := p.remove(ctx, batch)
			if err != nil {
				return err
			}
			gone += n
		}
		if gone == 0 {
			return nil
		}
	}
}

// runBudget deletes one record after the other, the lowest score first, until the rest is within
// the budget (spec PRN-4 to PRN-6, PRN-12). Total and free space are taken once: what is deleted
// comes free only when the backend collects it.
func (p *pruning) runBudget(ctx context.Context, policy *prunePolicy) error {
	views, err := p.view(policy)
	if err != nil {
		return err
	}
	total, err := p.m.measureViews(ctx, views)
	if err != nil {
		return err
	}
	free := int64(0)
	if policy.MinFreeSpace != 0 {
		if free, err = freeSpace(p.m.opt.Root); err != nil {
			return errors.Wrapf(err, "asking for the free space of %q", p.m.opt.Root)
		}
	}
	for keep := budget(policy.PruneInfo, total, free); total > keep; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		candidates := policy.candidates(views, p.m.opt.Now())
		if len(candidates) == 0 {
			return nil
		}
		victim := lowestScore(candidates)
		_, size, err := p.remove(ctx, []*graph.View{victim})
		if err != nil {
			return err
		}
		if !victim.Shared {
			total -= size
		}
		if views, err = p.view(policy); err != nil {
			return err
		}
	}
	return nil
}

// candidates lists what the policy allows to go.
func (p *prunePolicy) candidates(views []graph.View, now time.Time) []*graph.View {
	var out []*graph.View
	for i := range views {
		if p.eligible(&views[i], now) {
			out = append(out, &views[i])
		}
	}
	return out
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

// remove condemns and deletes records that nobody took meanwhile, and reports them. It returns how
// many and how large they were.
func (p *pruning) remove(ctx context.Context, victims []*graph.View) (n int, size int64, err error) {
	var (
		recs    []*graph.Record
		reports []*usage.Info
		unknown []measurement
	)
	for _, v := range victims {
		if !p.m.g.Condemn(v) {
			continue
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
		return 0, 0, nil
	}
	restored := false
	err = p.detached(ctx, func(ctx context.Context) error {
		merr := p.m.measure(ctx, unknown) // while the data is there; what cannot be measured goes as 0 bytes
		err := p.m.remove(ctx, "pruned", recs...)
		restored = err != nil && p.m.g.Status(recs[0]).State != graph.Gone
		for _, rec := range recs {
			p.m.reportEvents(rec)
		}
		return stderrors.Join(err, merr)
	})
	if p.rest != nil || restored {
		return 0, 0, err
	}
	for _, u := range reports {
		size += u.Size
		if rerr := p.report(ctx, u); rerr != nil {
			return len(recs), size, stderrors.Join(rerr, err)
		}
	}
	return len(recs), size, err
}

func (p *pruning) report(ctx context.Context, u *usage.Info) error {
	if p.ch == nil {
		return nil
	}
	select {
	case p.ch <- *u:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
