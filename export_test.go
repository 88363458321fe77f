package cache

// EnterGraph takes and releases the mutex of a manager's record graph.
func EnterGraph(m Manager) { m.(*manager).g.Enter() } //nolint:errcheck,forcetypeassert // a panic is what a wrong type deserves
