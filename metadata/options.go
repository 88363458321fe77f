package metadata

import (
	"os"
	"time"
)

// DefaultFlushInterval is how long Later may leave a value unwritten, unless an option says
// otherwise. It is what a crash can cost.
const DefaultFlushInterval = 5 * time.Second

// Option changes a default of a store.
type Option func(*options)

type options struct {
	flushInterval time.Duration
	afterFunc     func(time.Duration, func()) (stop func() bool)
	noSalvage     bool
	salvage       salvageOps
}

func newOptions(opts []Option) options {
	o := options{
		flushInterval: DefaultFlushInterval,
		afterFunc: func(d time.Duration, fn func()) func() bool {
			return time.AfterFunc(d, fn).Stop
		},
		salvage: salvageOps{step: func(string) {}, link: os.Link},
	}
	for _, opt := range opts {
		if opt != nil {
			opt(&o)
		}
	}
	return o
}

// WithFlushInterval sets how long Later may leave a value unwritten. A duration that is not
// positive keeps the default.
func WithFlushInterval(d time.Duration) Option {
	return func(o *options) {
		if d > 0 {
			o.flushInterval = d
		}
	}
}

// WithoutSalvage has NewStore return ErrCorrupt for a damaged database and leave it as it is,
// instead of moving what can be read of it to a new file.
func WithoutSalvage() Option {
	return func(o *options) { o.noSalvage = true }
}

// WithAfterFunc replaces the timer behind Later, for tests. afterFunc calls fn on a goroutine
// of its own once d has passed, unless the function it returned was called first, which then
// returns true. nil keeps time.AfterFunc.
func WithAfterFunc(afterFunc func(d time.Duration, fn func()) (stop func() bool)) Option {
	return func(o *options) {
		if afterFunc != nil {
			o.afterFunc = afterFunc
		}
	}
}
