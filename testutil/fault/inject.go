package fault

import (
	"context"
	"os"
	"sync"

	"github.com/pkg/errors"
)

// Fail returns an action that makes the call fail with err. A nil err would be an injection that
// does nothing, so it stands for an error that says so.
func Fail(err error) Action {
	if err == nil {
		err = errors.New("fault: Fail was given a nil error")
	}
	return func(context.Context, Point) error { return err }
}

// Run returns an action that calls fn and then lets the call go on.
func Run(fn func(ctx context.Context, p Point)) Action {
	return func(ctx context.Context, p Point) error {
		fn(ctx, p)
		return nil
	}
}

// Kill returns an action that ends the process on the spot, as kill -9 would: no deferred
// function runs and nothing is flushed. It is for child processes of a test.
func Kill() Action {
	return func(context.Context, Point) error {
		p, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = p.Kill()
		}
		if err != nil {
			return errors.Wrap(err, "fault: killing the process")
		}
		select {} // the signal is on its way
	}
}

// FailAt makes the call at point n fail with err.
func (f *Faults) FailAt(n int, err error) *Injection {
	return f.Inject(Match{N: n}, Fail(err))
}

// FailOp makes every call fail with err whose operation matches the pattern. The calls do not
// reach the backend.
func (f *Faults) FailOp(pattern string, err error) *Injection {
	return f.Inject(Match{Op: pattern, When: Before}, Fail(err))
}

// CancelAt calls cancel at point n, which should end the context of the operation under test.
func (f *Faults) CancelAt(n int, cancel context.CancelFunc) *Injection {
	return f.Inject(Match{N: n}, Run(func(context.Context, Point) { cancel() }))
}

// RunAt calls fn at point n.
func (f *Faults) RunAt(n int, fn func(ctx context.Context, p Point)) *Injection {
	return f.Inject(Match{N: n}, Run(fn))
}

// KillAt ends the process at point n.
func (f *Faults) KillAt(n int) *Injection {
	return f.Inject(Match{N: n}, Kill())
}

// Block holds calls back at a point.
type Block struct {
	*Injection
	entered chan struct{}
	release chan struct{}
	enter   sync.Once
	open    sync.Once
}

// Entered is closed when the first call has arrived.
func (b *Block) Entered() <-chan struct{} { return b.entered }

// Release lets all calls go on, those that arrive later included. It may be called more than once.
func (b *Block) Release() { b.open.Do(func() { close(b.release) }) }

// Block holds back the calls at all points that match until Release, or until the call's context
// ends, whose error the call then fails with.
func (f *Faults) Block(m Match) *Block {
	b := &Block{entered: make(chan struct{}), release: make(chan struct{})}
	b.Injection = f.Inject(m, func(ctx context.Context, _ Point) error {
		b.enter.Do(func() { close(b.entered) })
		select {
		case <-b.release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return b
}

// BlockAt holds back the call at point n.
func (f *Faults) BlockAt(n int) *Block { return f.Block(Match{N: n}) }

// BlockOp holds back the calls whose operation matches the pattern before they are made.
func (f *Faults) BlockOp(pattern string) *Block {
	return f.Block(Match{Op: pattern, When: Before})
}
