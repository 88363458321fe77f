package cache

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/pruneplan"
	"github.com/layercache/cache/usage"
)

// This file makes the plan of a prune: which records go, and in which order, as far as one view of all of them tells.

// prunePlan is what one policy wants of one view.
type prunePlan struct {
	policy *prunePolicy
	*accounts
	seq *pruneplan.Plan
	// left is what there would be after what was planned so far, and keep how much may be; without a budget
	// everything goes.
	left, keep int64
}

// planned is a record that is to go, and what comes free with it.
type planned struct {
	view  *graph.View
	freed int64
}

// next returns the next record to go.
func (p *prunePlan) next() (planned, bool) {
	if p.policy.budgeted() && p.left <= p.keep {
		return planned{}, false
	}
	step, ok := p.seq.Next()
	if !ok {
		return planned{}, false
	}
	p.left -= step.Counted
	return planned{&p.views[step.Item], step.Freed}, true
}

// planning is what the policies of one call have in common.
type planning struct {
	m       *manager
	checker ExternalRefChecker // made at most once
	// freed is what was planned for the policies before, and will come free only when the backend collects it.
	freed int64
	// gone are records that were planned without being deleted.
	gone map[*graph.Record]bool
	// taken are records of the policy's earlier plans that somebody used before they could be deleted.
	taken map[*graph.Record]bool
}

// view looks at all records that are left, and asks the external checker about them where the policy cares.
func (p *planning) view(policy *prunePolicy) ([]graph.View, error) {
	views := p.m.g.View()
	if len(p.gone) > 0 {
		views = withoutGone(views, p.gone)
	}
	if !policy.asksChecker() {
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

// withoutGone is a view as if the records were deleted.
func withoutGone(views []graph.View, gone map[*graph.Record]bool) []graph.View {
	links := map[*graph.Record]int{}
	for r := range gone {
		for _, p := range r.Parents() {
			links[p]++
		}
	}
	out := views[:0]
	for _, v := range views {
		if !gone[v.Record] {
			v.Links -= links[v.Record]
			out = append(out, v)
		}
	}
	return out
}

// byID returns the views in the order of their rows. What is sorted is smaller than a view by far.
func byID(views []graph.View) []graph.View {
	type named struct {
		id string
		at int
	}
	order := make([]named, len(views))
	for i := range views {
		order[i] = named{views[i].Meta.ID, i}
	}
	slices.SortFunc(order, func(a, b named) int { return strings.Compare(a.id, b.id) })
	out := make([]graph.View, len(views))
	for i, n := range order {
		out[i] = views[n.at]
	}
	return out
}

// plan applies a policy to the records that there are. With a keep of less than 0 the budget is worked out first; else it was by
// an earlier plan of the same policy. An error about sizes comes with a plan where none are needed.
func (p *planning) plan(ctx context.Context, policy *prunePolicy, keep int64, now time.Time) (*prunePlan, error) {
	views, err := p.view(policy)
	if err != nil {
		return nil, err
	}
	if !policy.budgeted() { // else the scores say what comes first
		views = byID(views)
	}
	eligible, wanted := make([]bool, len(views)), make([]int, 0, len(views))
	for i := range views {
		eligible[i] = policy.spares(&views[i], now) == "" && !p.taken[views[i].Record]
		if eligible[i] || policy.budgeted() {
			wanted = append(wanted, i)
		}
	}
	a, err := p.m.account(ctx, views, wanted)
	if err != nil && policy.budgeted() {
		return nil, err
	}
	if cerr := context.Cause(ctx); cerr != nil {
		return nil, cerr
	}
	plan := &prunePlan{policy: policy, accounts: a, keep: keep}
	seq, serr := p.m.sequence(policy, a, eligible)
	if serr != nil {
		return nil, serr
	}
	plan.seq = seq
	plan.left = plan.seq.Total()
	if policy.budgeted() && keep < 0 {
		free := p.freed
		if policy.MinFreeSpace != 0 {
			now, err := freeSpace(p.m.opt.Root)
			if err != nil {
				return nil, errors.Wrapf(err, "asking for the free space of %q", p.m.opt.Root)
			}
			free += now
		}
		plan.keep, policy.rule = budget(policy.PruneInfo, plan.left, free), ruleOf(policy.PruneInfo, plan.left, free)
	} else if !policy.budgeted() {
		policy.rule = ruleOf(policy.PruneInfo, 0, 0)
	}
	return plan, err
}

// sequence puts the records in the order in which they go.
func (m *manager) sequence(policy *prunePolicy, a *accounts, eligible []bool) (*pruneplan.Plan, error) {
	index := make(map[*graph.Record]int, len(a.views))
	links := 0
	for i := range a.views {
		index[a.views[i].Record] = i
		links += a.views[i].Links
	}
	sizes, of := a.things()
	items := make([]pruneplan.Item, len(a.views))
	parents := make([]int, 0, links) // of all items, one after the other
	for i := range a.views {
		v := &a.views[i]
		first := len(parents)
		for _, parent := range v.Record.Parents() {
			if at, ok := index[parent]; ok {
				parents = append(parents, at)
			}
		}
		items[i] = pruneplan.Item{
			LastUsed: v.Meta.LastUsedAt, Count: int64(v.Meta.UsageCount), Created: v.Meta.CreatedAt, ID: v.Meta.ID,
			Links: v.Links, Eligible: eligible[i], Shared: v.Shared, Objects: of[i], Parents: parents[first:len(parents):len(parents)],
		}
	}
	switch {
	case !policy.budgeted():
		return pruneplan.NewPlain(items, sizes)
	case m.opt.PruneScorer == nil:
		return pruneplan.New(items, sizes)
	}
	scores := make([]float64, len(items))
	for i := range items {
		if eligible[i] {
			u := usageOf(&a.views[i])
			u.Size = a.size(i)
			scores[i] = m.opt.PruneScorer.Score(*u)
		}
	}
	return pruneplan.NewScored(items, sizes, scores)
}

// verdicts says what policies, applied in order, would do to every record.
func (m *manager) verdicts(ctx context.Context, policies []prunePolicy) (map[*graph.Record]*usage.Verdict, error) {
	p := &planning{m: m, gone: map[*graph.Record]bool{}}
	out := map[*graph.Record]*usage.Verdict{}
	for k := range policies {
		policy, now := &policies[k], m.opt.Now()
		plan, err := p.plan(ctx, policy, -1, now)
		if err != nil {
			return nil, err
		}
		going := map[*graph.Record]bool{}
		for {
			victim, ok := plan.next()
			if !ok {
				break
			}
			going[victim.view.Record] = true
			p.freed += victim.freed
		}
		pinned := graph.WithAncestors(recordsWhere(plan.views, func(v *graph.View) bool { return v.Pinned }))
		held := graph.WithAncestors(recordsWhere(plan.views, func(v *graph.View) bool { return !going[v.Record] && policy.spares(v, now) != "" }))
		for i := range plan.views {
			v := &plan.views[i]
			verdict := out[v.Record]
			if verdict == nil {
				verdict = &usage.Verdict{}
				out[v.Record] = verdict
			}
			reason := policy.spares(v, now)
			switch {
			case going[v.Record]:
				verdict.Pruned, reason = true, usage.ReasonPruned
				p.gone[v.Record] = true
			case reason != "":
			case pinned[v.Record]:
				reason = usage.ReasonPinned
			case held[v.Record]:
				reason = usage.ReasonParent
			default:
				reason = usage.ReasonWithinBudget
			}
			verdict.Reasons = append(verdict.Reasons, reason)
		}
	}
	return out, nil
}

func recordsWhere(views []graph.View, is func(*graph.View) bool) (out []*graph.Record) {
	for i := range views {
		if is(&views[i]) {
			out = append(out, views[i].Record)
		}
	}
	return out
}
