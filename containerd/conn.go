package containerd

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// conn is the client's connection with a limit on every call.
type conn struct {
	client *client.Client
	limit  time.Duration
	// renewing is held by who replaces a broken connection.
	renewing sync.Mutex
}

var _ grpc.ClientConnInterface = (*conn)(nil)

// newConn returns the connection of a client, which may be another one after the client's Reconnect.
func newConn(c *client.Client, limit time.Duration) (*conn, error) {
	if c == nil {
		return nil, invalid("the client is nil")
	}
	cc := &conn{client: c, limit: limit}
	if cc.underlying() == nil {
		return nil, invalid("the client has no connection")
	}
	return cc, nil
}

// current returns the connection to make a call on, nil if there is none. One that was found broken is replaced: it would go on failing calls
// until its next attempt to connect, which after a while is many seconds off, and the daemon may be back. A new one makes an attempt
// at once, for whose outcome the call waits.
func (c *conn) current() *grpc.ClientConn {
	cc := c.underlying()
	if cc == nil || cc.GetState() != connectivity.TransientFailure {
		return cc
	}
	c.renewing.Lock()
	defer c.renewing.Unlock()
	cc = c.underlying()
	if cc != nil && cc.GetState() == connectivity.TransientFailure && c.client.Reconnect() != nil {
		cc.ResetConnectBackoff() // the client was made from a connection: all there is
	}
	return c.underlying()
}

func (c *conn) underlying() *grpc.ClientConn {
	cc, ok := c.client.Conn().(*grpc.ClientConn)
	if !ok {
		return nil
	}
	return cc
}

// Invoke makes a call.
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if err := c.invoke(ctx, method, args, reply, opts...); err != nil {
		return err
	}
	return complete(reply)
}

func (c *conn) invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	cc := c.current()
	if cc == nil {
		return errNoConnection
	}
	if _, own := ctx.Deadline(); own || c.limit < 0 {
		return c.noted(ctx, cc, cc.Invoke(ctx, method, args, reply, opts...))
	}
	if !takesLong(method, args) {
		ctx, cancel := context.WithTimeout(ctx, c.limit)
		defer cancel()
		return c.noted(ctx, cc, cc.Invoke(ctx, method, args, reply, opts...))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := c.watch(ctx, cancel)
	err := c.noted(ctx, cc, cc.Invoke(ctx, method, args, reply, opts...))
	w.end()
	if err != nil && w.fired.Load() {
		return errNoAnswer
	}
	return err
}

var (
	errNoConnection = status.Error(codes.Unavailable, "the containerd client has no connection")
	errNoAnswer     = status.Error(codes.DeadlineExceeded, "containerd does not answer")
)

// skew bounds how much earlier than the caller's context a deadline may end a call: the daemon has a timer of its own.
const skew = time.Second

// noted is the error of a call on cc. That cc was replaced by another means that it was broken. A call that ended by the caller's deadline
// returns when the caller's context has ended, too, which is how he tells his own deadline from other failures.
func (c *conn) noted(ctx context.Context, cc *grpc.ClientConn, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	switch status.Code(err) {
	case codes.Canceled:
		if cc != c.underlying() {
			return status.Error(codes.Unavailable, status.Convert(err).Message())
		}
	case codes.DeadlineExceeded:
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < skew {
			<-ctx.Done()
		}
	}
	return err
}

// Methods that may take any time: they copy trees, pack, unpack, sync, or walk the whole of the metadata.
const (
	methodApply       = "/containerd.services.diff.v1.Diff/Apply"
	methodDiff        = "/containerd.services.diff.v1.Diff/Diff"
	methodPrepare     = "/containerd.services.snapshots.v1.Snapshots/Prepare"
	methodView        = "/containerd.services.snapshots.v1.Snapshots/View"
	methodCommit      = "/containerd.services.snapshots.v1.Snapshots/Commit"
	methodUsage       = "/containerd.services.snapshots.v1.Snapshots/Usage"
	methodLeaseList   = "/containerd.services.leases.v1.Leases/List"
	methodLeaseDelete = "/containerd.services.leases.v1.Leases/Delete"
	methodWrite       = "/containerd.services.content.v1.Content/Write"
	methodHealth      = "/grpc.health.v1.Health/Check"
)

func takesLong(method string, args any) bool {
	switch method {
	case methodApply, methodDiff, methodPrepare, methodView, methodCommit, methodUsage, methodLeaseList:
		return true
	case methodLeaseDelete: // garbage collection, if it is to be waited for
		req, ok := args.(*leasesapi.DeleteRequest)
		return ok && req.Sync
	}
	return false
}

// watch is on a call that may take long: it ends the call if the daemon stops answering.
type watch struct {
	c *conn
	// ctx ends with the watch.
	ctx  context.Context //nolint:containedctx // that of one call
	stop context.CancelFunc
	// give ends the call.
	give  context.CancelCauseFunc
	timer *time.Timer
	fired atomic.Bool
}

// watch begins to look at the daemon after the limit, and again whenever it has passed; if there is no answer it
// calls give. end has to follow.
func (c *conn) watch(ctx context.Context, give context.CancelCauseFunc) *watch {
	w := &watch{c: c, give: give}
	w.ctx, w.stop = context.WithCancel(ctx)
	armed := make(chan struct{})
	w.timer = time.AfterFunc(c.limit, func() {
		<-armed
		w.look()
	})
	close(armed)
	return w
}

// look asks the daemon for a sign of life. Any answer will do.
func (w *watch) look() {
	ctx, cancel := context.WithTimeout(w.ctx, w.c.limit)
	defer cancel()
	cc := w.c.underlying()
	if cc == nil {
		return // then the call has failed, too
	}
	err := cc.Invoke(ctx, methodHealth, &healthapi.HealthCheckRequest{}, &healthapi.HealthCheckResponse{})
	switch {
	case w.ctx.Err() != nil:
	case status.Code(err) == codes.DeadlineExceeded:
		w.fired.Store(true)
		w.give(errNoAnswer)
	default:
		w.timer.Reset(w.c.limit)
	}
}

func (w *watch) end() {
	w.stop()
	w.timer.Stop() // one that look sets again at this moment finds the context ended
}
