package cache

import (
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/usage"
)

// prunePolicy is a policy whose filters have been parsed.
type prunePolicy struct {
	usage.PruneInfo
	filter filters.Filter // nil matches everything
	// rule is what of the policy makes records go, for the events that tell of it; see ruleOf.
	rule string
}

// parsePolicies judges all policies, so that nothing is deleted for the first while the last is invalid (spec PRN-2).
func (m *manager) parsePolicies(infos []usage.PruneInfo) ([]prunePolicy, error) {
	out := make([]prunePolicy, len(infos))
	for i, info := range infos {
		switch {
		case info.ReservedSpace < 0 || info.MaxUsedSpace < 0 || info.MinFreeSpace < 0 || info.KeepBytes < 0 || info.KeepDuration < 0:
			return nil, errors.Wrapf(errInvalid, "prune policy %d has a negative limit", i)
		case info.MinFreeSpace != 0 && m.opt.Root == "":
			return nil, errors.Wrapf(errInvalid, "prune policy %d has MinFreeSpace, which needs manager option Root", i)
		case info.KeepBytes != 0 && info.ReservedSpace != 0 && info.KeepBytes != info.ReservedSpace:
			return nil, errors.Wrapf(errInvalid, "prune policy %d keeps %d bytes by KeepBytes and %d by ReservedSpace", i, info.KeepBytes, info.ReservedSpace)
		case info.DryRun != infos[0].DryRun:
			return nil, errors.Wrapf(errInvalid, "prune policies 0 and %d disagree about DryRun", i)
		}
		if info.KeepBytes != 0 { // spec OLD-1
			info.ReservedSpace = info.KeepBytes
		}
		f, err := parseFilter(info.Filter)
		if err != nil {
			return nil, errors.Wrapf(err, "prune policy %d", i)
		}
		out[i] = prunePolicy{PruneInfo: info, filter: f}
	}
	return out, nil
}

// budgeted tells whether the policy names an amount of space; without one everything eligible goes (spec PRN-5).
func (p *prunePolicy) budgeted() bool {
	return p.ReservedSpace != 0 || p.MaxUsedSpace != 0 || p.MinFreeSpace != 0
}

// asksChecker tells whether it matters to the policy what is shared (spec PRN-3).
func (p *prunePolicy) asksChecker() bool { return !p.All || len(p.Filter) > 0 }

// spares tells why the policy leaves a record alone, whatever else there is (spec PRN-7 to PRN-10); "" if it does not.
func (p *prunePolicy) spares(v *graph.View, now time.Time) usage.Reason {
	if v.InUse {
		return usage.ReasonInUse
	}
	if v.Pinned {
		return usage.ReasonPinned
	}
	switch kind := usage.RecordType(v.Meta.RecordType); {
	case !p.All && (kind == usage.TypeInternal || kind == usage.TypeFrontend):
		return usage.ReasonProtectedType
	case !p.All && v.Shared:
		return usage.ReasonShared
	case tooYoung(v, now, p.KeepDuration):
		return usage.ReasonTooYoung
	case !matches(p.filter, v):
		return usage.ReasonFiltered
	}
	return ""
}

// ruleOf tells which of a policy's limits makes records go; the arguments are those of budget.
func ruleOf(p usage.PruneInfo, total, free int64) string {
	missing := p.MinFreeSpace - free
	switch {
	case p.MinFreeSpace != 0 && missing > 0 && (p.MaxUsedSpace == 0 || total-missing < p.MaxUsedSpace):
		return RuleMinFreeSpace
	case p.MaxUsedSpace != 0:
		return RuleMaxUsedSpace
	case p.MinFreeSpace != 0:
		return RuleMinFreeSpace
	case p.ReservedSpace != 0:
		return RuleReservedSpace
	case p.KeepDuration != 0:
		return RuleKeepDuration
	}
	return RuleIdle
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
