package daemon

import (
	"context"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
)

// Calls counts the round trips of a client. A stream counts as one, however many messages it has. The zero value is ready for use.
type Calls struct {
	mu     sync.Mutex
	counts map[string]int
	// before, if set, is called before each call with the name of its method, such as "Snapshots/Prepare"; its error ends the call.
	before func(ctx context.Context, method string) error
	// after is called when a call has been answered, and may take the answer away.
	after func(ctx context.Context, method string) error
}

// Opt is for the client whose calls are to be counted.
func (c *Calls) Opt() client.Opt {
	return client.WithExtraDialOpts([]grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			before, after := c.note(method)
			if before != nil {
				if err := before(ctx, nameOf(method)); err != nil {
					return err
				}
			}
			err := invoke(ctx, method, req, reply, cc, opts...)
			if after != nil {
				if lost := after(ctx, nameOf(method)); lost != nil {
					return lost
				}
			}
			return err
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			before, _ := c.note(method)
			if before != nil {
				if err := before(ctx, nameOf(method)); err != nil {
					return nil, err
				}
			}
			return stream(ctx, desc, cc, method, opts...)
		}),
	})
}

// nameOf returns the service and the method of "/package.Service/Method".
func nameOf(method string) string {
	service := path.Base(path.Dir(method))
	return service[strings.LastIndex(service, ".")+1:] + "/" + path.Base(method)
}

func (c *Calls) note(method string) (before, after func(context.Context, string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	c.counts[nameOf(method)]++
	return c.before, c.after
}

// hook sets before and after.
func (c *Calls) hook(before, after func(ctx context.Context, method string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before, c.after = before, after
}

// Take returns the calls since the last Take, as "3 Leases/Create, 1 Snapshots/Prepare", and how many they are.
func (c *Calls) Take() (text string, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, total = c.look()
	c.counts = nil
	return text, total
}

// Look returns what Take would, and leaves it.
func (c *Calls) Look() (text string, total int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look()
}

func (c *Calls) look() (text string, total int) {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c.counts)) {
		parts = append(parts, strconv.Itoa(c.counts[name])+" "+name)
		total += c.counts[name]
	}
	return strings.Join(parts, ", "), total
}
