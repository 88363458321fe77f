package cache

import (
	"context"
	stderrors "errors"
	"runtime"
	"syscall"

	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/usage"
)

// pruneBatch is how many records are deleted in one go: their marks share a transaction, and so do
// their leases and their rows. More save little more, and what others want to write waits for a transaction.
const pruneBatch = 512

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
	p := &pruning{planning: planning{m: m}, ch: ch}
	defer func() {
		if p.rest == nil {
			leave()
			return
		}
		m.life.goOn(func() { <-p.rest; leave() }) // the next prune sees what this one leaves
	}()
	if len(policies) > 0 && policies[0].DryRun {
		return p.dryRun(ctx, policies)
	}
	err = p.carryOut(ctx, policies)
	if diskFull(err) && m.opt.Reserve != nil {
		log.G(ctx).WithError(err).Warn("layer cache: the disk is full; a prune goes on with the space that was kept back")
		if err = m.opt.Reserve.Release(); err == nil {
			err = p.carryOut(ctx, policies)
		}
	}
	if err == nil && m.opt.Reserve != nil {
		if kerr := m.opt.Reserve.Keep(); kerr != nil {
			log.G(ctx).WithError(kerr).Warn("layer cache: no space could be kept back after a prune")
		}
	}
	return err
}

// diskFull tells whether something could not be written for want of space.
func diskFull(err error) bool {
	const windowsDiskFull = syscall.Errno(112)
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || runtime.GOOS == "windows" && errors.Is(err, windowsDiskFull)
}

// carryOut does what the policies say, beginning with what is left from before.
func (p *pruning) carryOut(ctx context.Context, policies []prunePolicy) error {
	err := p.detached(ctx, func(ctx context.Context) error {
		p.m.finishRemovals(ctx)
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
	if p.m.opt.GarbageCollect == nil {
		return nil
	}
	if _, err = p.m.opt.GarbageCollect(ctx); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return errors.Wrap(err, "collecting garbage")
}

// pruning is one call of Prune.
type pruning struct {
	planning
	ch chan usage.Info
	// rest is work that goes on after the caller's context ended.
	rest <-chan struct{}
}

func (p *pruning) detached(ctx context.Context, fn func(ctx context.Context) error) (err error) {
	p.rest, err = p.m.detached(ctx, fn)
	return err
}

// dryRun reports what the policies would delete.
func (p *pruning) dryRun(ctx context.Context, policies []prunePolicy) error {
	p.gone = map[*graph.Record]bool{}
	for i := range policies {
		plan, err := p.plan(ctx, &policies[i], -1, p.m.opt.Now())
		if err != nil {
			return err
		}
		for {
			victim, ok := plan.next()
			if !ok {
				break
			}
			p.gone[victim.view.Record] = true
			p.freed += victim.freed
			if err := p.report(ctx, victim); err != nil {
				return err
			}
		}
	}
	return nil
}

// run deletes what one policy allows, in the order of a plan. If a record that was planned turns out to be in use by then, or changed, the rest
// is planned anew (spec PRN-11, PRN-12).
func (p *pruning) run(ctx context.Context, policy *prunePolicy) error {
	now, keep := p.m.opt.Now(), int64(-1)
	p.taken = map[*graph.Record]bool{}
	for {
		plan, unmeasured := p.plan(ctx, policy, keep, now)
		if plan == nil {
			return unmeasured
		}
		keep = plan.keep
		again, err := p.carryOutPlan(ctx, plan)
		if err != nil || !again {
			return stderrors.Join(err, unmeasured) // records that could not be measured went all the same
		}
	}
}

// carryOutPlan deletes batch by batch. It tells whether the plan turned out to be out of date: with a budget at the first record that
// must not go, else at the end, if anything went at all. Where nothing of a batch could go, its records are no part of the next plan: whoever takes
// them whenever there is a plan, as a checker of external references may, would have the plans never end.
func (p *pruning) carryOutPlan(ctx context.Context, plan *prunePlan) (again bool, err error) {
	stale, gone := false, 0
	for {
		if err := p.ended(ctx); err != nil {
			return false, err
		}
		var batch []planned
		for len(batch) < p.m.pruneBatch {
			victim, ok := plan.next()
			if !ok {
				break
			}
			batch = append(batch, victim)
		}
		if len(batch) == 0 {
			return stale && gone > 0, nil
		}
		n, err := p.remove(ctx, plan, batch)
		if err != nil {
			return false, err
		}
		gone += n
		if n == 0 {
			for _, victim := range batch {
				p.taken[victim.view.Record] = true
			}
		}
		if n < len(batch) {
			if plan.policy.budgeted() {
				return true, nil
			}
			stale = true
		}
	}
}

// remove condemns and deletes records that nobody took meanwhile, and reports them. It returns how many.
func (p *pruning) remove(ctx context.Context, plan *prunePlan, batch []planned) (n int, err error) {
	views := make([]*graph.View, len(batch))
	freed := make(map[*graph.View]int64, len(batch))
	for i, victim := range batch {
		views[i] = victim.view
		freed[victim.view] = victim.freed
	}
	chosen := p.m.g.Condemn(views)
	if len(chosen) == 0 {
		return 0, nil
	}
	recs := make([]*graph.Record, len(chosen))
	for i, v := range chosen {
		recs[i] = v.Record
	}
	restored := false
	err = p.detached(ctx, func(ctx context.Context) error {
		err := p.m.remove(ctx, "pruned", recs...)
		restored = err != nil && p.m.g.Status(recs[0]).State != graph.Gone
		for _, rec := range recs {
			p.m.reportEvents(rec)
		}
		if restored {
			return err
		}
		return stderrors.Join(err, p.m.inherit(plan.accounts, chosen))
	})
	if p.rest != nil || restored {
		return 0, err
	}
	for _, v := range chosen {
		p.freed += freed[v]
		if rerr := p.report(ctx, planned{v, freed[v]}); rerr != nil {
			return len(chosen), stderrors.Join(rerr, err)
		}
	}
	return len(chosen), err
}

// report tells the caller of one record, whose size is what came free with it (spec PRN-16).
func (p *pruning) report(ctx context.Context, victim planned) error {
	if p.ch == nil {
		return nil
	}
	u := usageOf(victim.view)
	u.InUse, u.Size = false, victim.freed
	select {
	case p.ch <- *u:
		return nil
	case <-ctx.Done():
	case <-p.m.life.closing: // the consumer may have stopped reading, and must not hold up Close
	}
	return p.ended(ctx)
}

// ended tells why no more may be deleted: the caller's context has ended, or Close was called.
func (p *pruning) ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if p.m.life.isClosed() {
		return errors.Wrap(ErrClosed, "pruning")
	}
	return nil
}
