package graph

// Enter takes and releases the graph's mutex. It is for tests: a call to a backend that is made under
// the mutex would never return from it.
func (g *Graph) Enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
}
