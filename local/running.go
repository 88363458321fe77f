package local

import (
	"sync"

	"github.com/pkg/errors"
)

// running counts work that has to end before the databases are closed.
type running struct {
	mu struct {
		sync.Mutex
		closed bool
	}
	wg sync.WaitGroup
}

// begin admits a piece of work, for which end has to be called, unless close was called.
func (r *running) begin() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.closed {
		return errors.WithStack(ErrClosed)
	}
	r.wg.Add(1)
	return nil
}

func (r *running) end() { r.wg.Done() }

// close admits nothing more and waits for what was admitted.
func (r *running) close() {
	r.mu.Lock()
	r.mu.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}
