// Package history has random histories of layers and a naive oracle for what merging them gives. It is for tests.
//
// A History is a list of steps. Each makes one snapshot: a layer, by changing a tree as programs do (Op), or a merge
// of differences between earlier ones. Histories can be written as JSON, so that one that found a defect is kept.
//
// The oracle knows trees only, as testutil/tree reads them. Changes lists what differs between two of them, Pack writes
// the list as a layer archive, and Unpack is the simplest unpacking that there is. Merge does so for a list of
// differences, in order, into a plain directory. Nothing of it is shared with package snapshot.
package history

import (
	"encoding/json"

	"github.com/pkg/errors"
)

// History is a list of steps that each make one snapshot. Snapshots are numbered from 1 in the order of the steps; 0 is
// the empty tree.
type History []Step

// Step makes a snapshot: a merge if there are Diffs, else a layer.
type Step struct {
	// Parent is the snapshot that a layer is made on.
	Parent int `json:"parent,omitempty"`
	// Ops are what is done to make it. None give an empty layer.
	Ops []Op `json:"ops,omitempty"`
	// Diffs are what a merge consists of.
	Diffs []Diff `json:"diffs,omitempty"`
}

// Diff names two snapshots.
type Diff struct {
	Lower int `json:"lower,omitempty"`
	Upper int `json:"upper,omitempty"`
}

// String is the history as JSON.
func (h History) String() string {
	b, err := json.Marshal(h)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Parse reads what String wrote. A step that refers to a later snapshot is an error.
func Parse(data []byte) (History, error) {
	var h History
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, errors.WithStack(err)
	}
	for i, s := range h {
		refs := []int{s.Parent}
		for _, d := range s.Diffs {
			refs = append(refs, d.Lower, d.Upper)
		}
		for _, ref := range refs {
			if ref < 0 || ref > i {
				return nil, errors.Errorf("step %d refers to snapshot %d", i+1, ref)
			}
		}
	}
	return h, nil
}

// Chain is the list of differences that snapshot n of the history consists of, from the bottom. A merge counts as one.
func (h History) Chain(n int) []Diff {
	if n == 0 {
		return nil
	}
	s := h[n-1]
	if s.Diffs != nil {
		return []Diff{{Upper: n}}
	}
	return append(h.Chain(s.Parent), Diff{Lower: s.Parent, Upper: n})
}
