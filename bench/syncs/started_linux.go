package syncs

import (
	stderrors "errors"
	"os"
	"sync"

	"github.com/pkg/errors"
)

// Started starts the one counter that a process can have, and makes sure that it counts:
// "no calls" is a target, and must not be met by a counter that sees nothing.
var Started = sync.OnceValues(func() (*Counter, error) {
	counter, err := Start()
	if err != nil {
		return nil, errors.Wrap(err, "fdatasync calls cannot be counted here")
	}
	f, err := os.CreateTemp("", "bench-sync-")
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	before, err := counter.Totals()
	if err != nil {
		return nil, err
	}
	if err := stderrors.Join(f.Sync(), f.Close()); err != nil {
		return nil, errors.WithStack(err)
	}
	after, err := counter.Totals()
	if err != nil {
		return nil, err
	}
	if after.Fsync != before.Fsync+1 {
		return nil, errors.Errorf("one fsync was counted as %d", after.Fsync-before.Fsync)
	}
	return counter, nil
})
