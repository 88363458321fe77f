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
// Up to two batches are condemned at a time, see pruning.begin.
const pruneBatch = 512

func (m *manager) Prune(ctx context.Context, ch chan usage.Info, infos ...usage.PruneInfo) (err error) {
	if err := m.life.begin(); err != nil {
		return errors.Wrap(err, "pruning")
	}
	defer m.life.end()
	policies, err := m.parsePolicies(infos)
	if err != nil {
		return err
	}
	ev := Event{Kind: EventPrune}
	if len(policies) > 0 && policies[0].DryRun {
		ev.Reason = ReasonDryRun
	}
	ctx, working := m.begin(ctx, ev)
	leave, err := enterSlot(ctx, m, &m.pruneSlot, struct{}{}, Event{Reason: PoolPrune})
	if err != nil {
		ev.Err = err
		working.done(ev)
		return err
	}
	p := &pruning{planning: planning{m: m}, ch: ch}
	defer func() {
		p.end(ctx, func() {
			leave()
			ev.Records, ev.Size, ev.Err = p.removed, p.bytes, err
			working.done(ev)
		})
	}()
	return p.call(ctx, policies)
}

// call does what the policies say; on a full disk with the space that was kept back.
func (p *pruning) call(ctx context.Context, policies []prunePolicy) error {
	m := p.m
	if len(policies) > 0 && policies[0].DryRun {
		return p.dryRun(ctx, policies)
	}
	err := p.carryOut(ctx, policies)
	for before := -1; diskFull(err) && m.opt.Reserve != nil && p.dropped > before; { // again as long as it gets anywhere
		if before >= 0 { // the reserve was not enough, but what was deleted since then may be
			m.collectGarbage(ctx)
			p.freed = 0
		}
		before = p.dropped
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
	if err = p.m.collected(ctx); err != nil && ctx.Err() != nil {
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
	// last is the batch of which only the rows are left, nil for none, and dropped how many records are not even in memory any more. While
	// there is a rest, both belong to that.
	last    *batch
	dropped int
	// removed is how many records went, and bytes what came free with them, for the event that tells of the call.
	removed int
	bytes   int64
}

// batch is records that go together.
type batch struct {
	*removal
	plan  *prunePlan
	gone  []*graph.View
	freed map[*graph.View]int64
}

func (p *pruning) detached(ctx context.Context, fn func(ctx context.Context) error) (err error) {
	p.rest, err = p.m.detached(ctx, fn)
	return err
}

// end lets the next prune in, once it sees what this one leaves: a batch that was begun is finished, though nobody waits for it.
func (p *pruning) end(ctx context.Context, leave func()) {
	if p.rest == nil && p.last == nil {
		leave()
		return
	}
	p.m.life.goOn(func() {
		defer leave()
		if p.rest != nil {
			<-p.rest
		}
		if _, err := p.finish(context.WithoutCancel(ctx)); err != nil {
			log.G(ctx).WithError(err).Warn("layer cache: finishing an interrupted prune")
		}
	})
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
			p.removed++
			p.bytes += victim.freed
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
		var next []planned
		for len(next) < p.m.pruneBatch {
			victim, ok := plan.next()
			if !ok {
				break
			}
			next = append(next, victim)
		}
		if len(next) == 0 {
			return stale && gone > 0, p.step(ctx, nil)
		}
		n, err := p.remove(ctx, plan, next)
		if err != nil {
			return false, err
		}
		gone += n
		if n == 0 {
			for _, victim := range next {
				p.taken[victim.view.Record] = true
			}
		}
		if n < len(next) {
			if plan.policy.budgeted() {
				return true, p.step(ctx, nil)
			}
			stale = true
		}
	}
}

// remove condemns records that nobody took meanwhile, and begins to delete them. It returns how many.
func (p *pruning) remove(ctx context.Context, plan *prunePlan, victims []planned) (n int, err error) {
	views := make([]*graph.View, len(victims))
	next := &batch{plan: plan, freed: make(map[*graph.View]int64, len(victims))}
	for i, victim := range victims {
		views[i] = victim.view
		next.freed[victim.view] = victim.freed
	}
	var before []*graph.Record
	if p.last != nil {
		before = p.last.recs
	}
	next.gone = p.m.g.Condemn(views, before...)
	if len(next.gone) == 0 {
		return 0, nil
	}
	recs := make([]*graph.Record, len(next.gone))
	for i, v := range next.gone {
		recs[i] = v.Record
	}
	next.removal = p.m.newRemoval(ReasonPruned, recs)
	next.cause, next.sizes = plan.policy.rule, make([]int64, len(recs))
	for i, v := range next.gone {
		next.sizes[i] = next.freed[v]
	}
	return len(recs), p.step(ctx, next)
}

// step begins a batch, unless it is nil, and finishes the one before. What is gone then is reported.
func (p *pruning) step(ctx context.Context, next *batch) error {
	var gone []*batch
	err := p.detached(ctx, func(ctx context.Context) (err error) {
		if next == nil {
			gone, err = p.finish(ctx)
		} else {
			gone, err = p.begin(ctx, next)
		}
		return err
	})
	if p.rest != nil {
		return err
	}
	for _, b := range gone {
		for _, v := range b.gone {
			p.freed += b.freed[v]
			if rerr := p.report(ctx, planned{v, b.freed[v]}); rerr != nil {
				return stderrors.Join(rerr, err)
			}
		}
	}
	return err
}

// begin marks a batch, with the rows of the last one going in the same transaction, and deletes its leases. Its own rows go with the
// next one's marks. So each batch takes one transaction of either database, and no more than two batches are neither there nor gone. What fails
// is gone nevertheless, unless it was restored.
func (p *pruning) begin(ctx context.Context, next *batch) (gone []*batch, err error) {
	last := p.last
	p.last = nil
	var rows *removal
	if last != nil {
		rows = last.removal
	}
	restored, err := p.m.beginRemoval(next.removal, rows)
	var lerr error
	if last != nil {
		gone, lerr = append(gone, last), p.drop(ctx, last, err)
	}
	if restored {
		p.m.reportEventsOf(next.recs)
		return gone, stderrors.Join(next.failed(err), lerr)
	}
	if err == nil {
		err = p.m.unlease(ctx, next.removal)
	}
	if err == nil {
		p.last = next
		return gone, lerr
	}
	return append(gone, next), stderrors.Join(next.failed(err), lerr, p.drop(ctx, next, err))
}

// finish removes the rows of the last batch.
func (p *pruning) finish(ctx context.Context) (gone []*batch, err error) {
	last := p.last
	if last == nil {
		return nil, nil
	}
	p.last = nil
	err = p.m.removeRows(last.left.rows...)
	return []*batch{last}, stderrors.Join(last.failed(err), p.drop(ctx, last, err))
}

// drop ends a batch in memory.
func (p *pruning) drop(ctx context.Context, b *batch, failed error) error {
	p.dropped += len(b.recs)
	p.removed += len(b.recs)
	for _, size := range b.sizes {
		p.bytes += size
	}
	err := p.m.endRemoval(ctx, b.removal, failed)
	p.m.reportEventsOf(b.recs)
	return stderrors.Join(b.failed(err), p.m.inherit(b.plan.accounts, b.gone))
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
