package cache

import (
	"cmp"
	"slices"
	"strings"

	"github.com/layercache/cache/usage"
)

// Total is how many records of one state, kind and type there are, and what they occupy. Fields may be added.
type Total struct {
	// State, Kind and RecordType are those of RecordInfo; a record without a type is of usage.TypeRegular.
	State      string           `json:"state"`
	Kind       string           `json:"kind"`
	RecordType usage.RecordType `json:"recordType"`
	// Records counts them, a pair that was committed and not finalized once, and InUse those that a ref leads to.
	Records int `json:"records"`
	InUse   int `json:"inUse"`
	// Unmeasured are those of the records whose size is not known, such as what was not measured since it was written, or is being
	// written; DiskUsage and Prune measure.
	Unmeasured int `json:"unmeasured"`
	// Bytes is what the others occupy, as it was measured. What several records own is counted once, at the oldest of them, so that the sum
	// after a DiskUsage is what that one reports. How much of a size is shared is not stored: from a start to the first DiskUsage, or prune with a budget, it is
	// counted at each of its owners.
	Bytes int64 `json:"bytes"`
}

// Totals looks at memory only, as a view of the whole graph does; see Manager. There is nothing in it for a combination of which there are no records.
func (m *manager) Totals() []Total {
	type group struct{ state, kind, recordType string }
	a := &accounts{views: m.g.View(), owners: map[object]owner{}}
	for i := range a.views {
		v := &a.views[i]
		if v.Mutable && v.InUse {
			v.Size = -1 // it is being written
		}
		if v.Size < 0 {
			v.Parts, v.Own = nil, nil // what it shares is counted at the others
		}
		a.learn(i)
	}
	totals := map[group]*Total{}
	for i := range a.views {
		v := &a.views[i]
		key := group{v.State.String(), v.Kind.String(), cmp.Or(v.Meta.RecordType, string(usage.TypeRegular))}
		t := totals[key]
		if t == nil {
			t = &Total{State: key.state, Kind: key.kind, RecordType: usage.RecordType(key.recordType)}
			totals[key] = t
		}
		t.Records++
		if v.InUse {
			t.InUse++
		}
		if v.Size < 0 {
			t.Unmeasured++
		} else {
			t.Bytes += a.size(i)
		}
	}
	out := make([]Total, 0, len(totals))
	for _, t := range totals {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b Total) int {
		return cmp.Or(strings.Compare(a.State, b.State), strings.Compare(a.Kind, b.Kind), strings.Compare(string(a.RecordType), string(b.RecordType)))
	})
	return out
}
