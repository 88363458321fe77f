package cache

// EnterGraph takes and releases the mutex of a manager's record graph.
func EnterGraph(m Manager) { m.(*manager).g.Enter() }
