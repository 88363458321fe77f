package containerd

import (
	"context"
	"io"
	"sync"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"google.golang.org/grpc"
)

// NewStream begins a call of many messages. The limit is on each of them.
func (c *conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cc := c.current()
	if cc == nil {
		return nil, errNoConnection
	}
	_, own := ctx.Deadline()
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stream{c: c, cc: cc, ctx: ctx, cancel: cancel, limited: !own && c.limit >= 0}
	var inner grpc.ClientStream
	err := s.limit(func() (err error) {
		inner, err = cc.NewStream(ctx, desc, method, opts...)
		return c.noted(ctx, cc, err)
	})
	if err != nil {
		cancel(nil)
		return nil, err
	}
	s.ClientStream, s.writes = inner, method == methodWrite
	return s, nil
}

// stream is a call of many messages, with a limit on each.
type stream struct {
	grpc.ClientStream
	c       *conn
	cc      *grpc.ClientConn
	ctx     context.Context //nolint:containedctx // that of one call
	cancel  context.CancelCauseFunc
	limited bool
	// writes says that it is the writing of a blob.
	writes bool
	closed sync.Once
	err    error
}

// limit runs one step, and ends the whole call if the daemon stops answering meanwhile.
func (s *stream) limit(step func() error) error {
	if !s.limited {
		return step()
	}
	w := s.c.watch(s.ctx, s.cancel)
	err := step()
	w.end()
	if err != nil && w.fired.Load() {
		return errNoAnswer
	}
	return err
}

// SendMsg sends a message. Of a call that is over grpc says no more than that; why is what its end says.
func (s *stream) SendMsg(m any) error {
	err := s.limit(func() error { return s.ClientStream.SendMsg(m) })
	if err != io.EOF || !s.writes { //nolint:errorlint // grpc returns it as it is
		if err != nil {
			s.cancel(nil) // it is over
		}
		return err
	}
	for {
		if end := s.RecvMsg(new(contentapi.WriteContentResponse)); end != nil {
			return end
		}
	}
}

func (s *stream) RecvMsg(m any) error {
	err := s.limit(func() error { return s.ClientStream.RecvMsg(m) })
	if err != nil {
		err = s.c.noted(s.ctx, s.cc, err)
		s.cancel(nil) // it is over
	}
	return err
}

// CloseSend ends the client's half. With a blob that is being written it waits until the daemon has ended its own: only then is
// the name of the write free for another.
func (s *stream) CloseSend() error {
	if !s.writes {
		return s.ClientStream.CloseSend()
	}
	s.closed.Do(func() {
		defer s.cancel(nil)
		if s.err = s.ClientStream.CloseSend(); s.err != nil {
			return
		}
		for s.ctx.Err() == nil { // a call that has failed before is over, and its caller knows
			if s.RecvMsg(new(contentapi.WriteContentResponse)) != nil {
				return
			}
		}
	})
	return s.err
}
