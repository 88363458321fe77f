package metadata

import (
	"bytes"
	"slices"
)

// stray is a page of records or external items that no page leads to any more, because the one
// above it is damaged.
type stray struct {
	id    uint64
	first []byte // key
	last  []byte
}

// strays finds the pages of a list of buckets that lost their parents, and claims them. Only
// the free list can tell them from pages that were given up: what it does not name and nothing
// leads to is a part of the last state of the file. Without one there are none.
func (r *reader) strays() ([]stray, error) {
	if r.free == nil {
		return nil, nil
	}
	var out []stray
	for id := uint64(2); id < r.limit; id++ {
		if r.claimed.has(id) || r.free.has(id) {
			continue
		}
		n, ok, err := r.read(id)
		if err != nil {
			return nil, err
		}
		lists := ok && !n.branch && len(n.elems) > 0 && !slices.ContainsFunc(n.elems, func(e elem) bool { return !e.bucket })
		if lists {
			out = append(out, stray{id, n.elems[0].key, n.elems[len(n.elems)-1].key})
		}
	}
	for _, p := range out {
		if err := r.claim(p.id, within{}, 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addStrays moves the records on pages that lost their parents. Such a page belongs to the bucket
// that has a gap where its keys are. If both have one, its content must tell.
func (s *salvager) addStrays(strays []stray) error {
	rows := map[string]*content{} // nil for a record that is there more than once
	for _, p := range strays {
		inMain, inExternal := p.within(s.mainGaps), p.within(s.externalGaps)
		unclear := inExternal || len(s.rootGaps) > 0
		if !inMain || unclear && !s.onlyRows(p) {
			continue
		}
		if err := s.walk(p.id, within{}, func(e elem) error {
			id := string(e.key)
			c, complete, err := s.load(e, 0)
			if err != nil {
				return err
			}
			if !complete {
				c = nil
			}
			if _, twice := rows[id]; twice {
				c = nil
			}
			rows[id] = c
			return nil
		}, func(gap) {}); err != nil {
			return err
		}
	}
	for id, c := range rows {
		if err := s.addRow(id, c, c != nil && !s.out.has(id)); err != nil {
			return err
		}
	}
	return nil
}

// within tells whether all keys of a page lie in one of the gaps.
func (p stray) within(gaps []gap) bool {
	return slices.ContainsFunc(gaps, func(g gap) bool { return covers(g, p.first) && covers(g, p.last) })
}

// onlyRows tells whether each bucket on a page has values such as only records have.
func (s *salvager) onlyRows(p stray) bool {
	all := true
	err := s.walk(p.id, within{}, func(e elem) error {
		c, complete, err := s.load(e, 0)
		if err != nil {
			return err
		}
		all = all && complete && looksLikeRow(c)
		return nil
	}, func(gap) { all = false })
	return all && err == nil
}

// looksLikeRow tells whether all values are envelopes in the form that they are written in, and
// there is one at all.
func looksLikeRow(c *content) bool {
	some := false
	for _, e := range c.elems {
		if e.bucket != nil {
			return false
		}
		if len(e.value) == 0 {
			continue
		}
		if !bytes.HasPrefix(e.value, []byte(`{"value":`)) && !bytes.HasPrefix(e.value, []byte(`{"index":`)) {
			return false
		}
		some = true
	}
	return some
}
