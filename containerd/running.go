package containerd

import "sync"

// running counts what goes on.
type running struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// begin counts one more, unless finish was called.
func (r *running) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Add(1)
	return true
}

func (r *running) end() { r.wg.Done() }

// finish lets nothing more begin, and waits for what goes on.
func (r *running) finish() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}
