package local

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// undoLog belongs to one transaction of containerd's metadata and lists what that made in the
// snapshotter. It is used by the goroutine only that works on the transaction.
type undoLog struct {
	undo []func(context.Context) error // run in reverse if the transaction fails
	end  []func()                      // run when it is over, one way or the other
	// final tells that something was done that undo cannot take back.
	final bool
}

type undoKey struct{}

// undoOf returns the log of the transaction in ctx, nil outside of one.
func undoOf(ctx context.Context) *undoLog {
	l, _ := ctx.Value(undoKey{}).(*undoLog)
	return l
}

func withUndo(ctx context.Context) (context.Context, *undoLog) {
	l := &undoLog{}
	return l.with(ctx), l
}

func (l *undoLog) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, undoKey{}, l)
}

// finish ends the log of a transaction that ended with err. What cannot be undone is left to
// garbage collection, which removes what containerd does not know.
func (l *undoLog) finish(ctx context.Context, err error) {
	if err != nil {
		ctx := context.WithoutCancel(ctx)
		for i := len(l.undo) - 1; i >= 0; i-- {
			if uerr := l.undo[i](ctx); uerr != nil && !errdefs.IsNotFound(uerr) {
				log.G(ctx).WithError(uerr).Warn("local: undoing a snapshotter call after its transaction failed")
			}
		}
	}
	for _, end := range l.end {
		end()
	}
}
