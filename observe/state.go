package observe

import "github.com/layercache/cache"

// State is what a manager did and what it has.
type State struct {
	// Counts is what was counted, nil without counters.
	Counts Counts `json:"counts,omitempty"`
	// Stats and Totals are the manager's.
	Stats  cache.Stats   `json:"stats"`
	Totals []cache.Total `json:"totals"`
}

// Inspected is the part of a cache.Manager that tells what it has.
type Inspected interface {
	Stats() cache.Stats
	Totals() []cache.Total
}

// StateOf returns the state of a manager and of the counters that observe it, which may be nil. Each of the parts is of one moment, one after the
// other. It looks at memory only and may be called after Close.
func StateOf(m Inspected, c *Counters) State {
	var s State
	if c != nil {
		s.Counts = c.Snapshot()
	}
	s.Stats, s.Totals = m.Stats(), m.Totals()
	return s
}

// Variable is the State of a manager as JSON, whenever it is asked for. It is an expvar.Var.
type Variable struct {
	m Inspected
	c *Counters
}

// Var returns the variable of a manager and of the counters that observe it, which may be nil. The package does not import expvar, which brings a
// web server along: publishing the variable is its user's.
func Var(m Inspected, c *Counters) Variable { return Variable{m, c} }

// String is the state as JSON.
func (v Variable) String() string { return asJSON(StateOf(v.m, v.c)) }
