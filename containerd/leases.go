package containerd

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// leaseManager is the daemon's lease manager, without calls whose answer is known.
//
// A record has up to three leases and most have one; the manager deletes all that there may be. Whether there is one of the others is
// known: leases of their names are made here alone, or were there when all were listed. The namespace is that of the
// contexts, and always the same.
type leaseManager struct {
	leases.Manager

	mu struct {
		sync.Mutex
		// listed says that all leases were listed, from when on known is complete.
		listed bool
		// known are the leases that may exist, of those whose names are derived from a record's.
		known map[string]struct{}
		// hidden are leases that the parts use for a moment and List does not show: to whoever compares leases with records
		// they would seem to be left over.
		hidden map[string]struct{}
		// making are the leases that are being made, each with what is closed when that has ended.
		making map[string]chan struct{}
	}
	// creates are the calls under way, some of which nobody waits for.
	creates running
}

// creationGrace is how long a lease may go on being made when nobody waits for it any more.
const creationGrace = 5 * time.Second

func newLeaseManager(lm leases.Manager) *leaseManager {
	l := &leaseManager{Manager: lm}
	l.mu.known, l.mu.hidden, l.mu.making = map[string]struct{}{}, map[string]struct{}{}, map[string]chan struct{}{}
	return l
}

// derived tells whether a lease is one that a record may have besides the one of its name.
func derived(id string) bool {
	for _, suffix := range []string{"-view", "-variants", "-repair"} {
		if strings.HasSuffix(id, suffix) {
			return true
		}
	}
	return false
}

// hide has List leave a lease out until show.
func (l *leaseManager) hide(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.hidden[id] = struct{}{}
}

func (l *leaseManager) show(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.mu.hidden, id)
}

// shown returns those of a list that are not hidden.
func (l *leaseManager) shown(list []leases.Lease) []leases.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(list, func(one leases.Lease) bool {
		_, hidden := l.mu.hidden[one.ID]
		return hidden
	})
}

// List lists leases, without those that are hidden. A list of all is what the manager begins with.
func (l *leaseManager) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	if len(filters) > 0 {
		list, err := l.Manager.List(ctx, filters...)
		return l.shown(list), err
	}
	list, err := l.Manager.List(ctx)
	if errdefs.IsResourceExhausted(err) {
		list, err = l.listParts(ctx, "")
	}
	if err != nil {
		return nil, err
	}
	list = l.shown(list)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range list {
		if derived(list[i].ID) {
			l.mu.known[list[i].ID] = struct{}{}
		}
	}
	l.mu.listed = true
	return list, nil
}

// idChars are the characters of which names of leases are made, by this cache and by most others. They have no meaning in a regular expression.
const idChars = "0123456789abcdefghijklmnopqrstuvwxyz"

// maxPrefix bounds the depth of listParts. Names of leases have 25 characters, of which the first four make a million groups.
const maxPrefix = 8

// listParts lists the leases whose names begin with prefix, by their next character: a list is one message, which may have 16 MiB, and some
// 100 000 leases are longer. A lease that is made meanwhile may be missing.
func (l *leaseManager) listParts(ctx context.Context, prefix string) ([]leases.Lease, error) {
	// Those that go on with none of the characters, or end here.
	list, err := l.Manager.List(ctx, idFilter(prefix+"([^"+idChars+"]|$)"))
	if err != nil {
		return nil, err
	}
	for _, c := range idChars {
		longer := prefix + string(c)
		part, err := l.Manager.List(ctx, idFilter(longer))
		if errdefs.IsResourceExhausted(err) && len(longer) < maxPrefix {
			part, err = l.listParts(ctx, longer)
		}
		if err != nil {
			return nil, err
		}
		list = append(list, part...)
	}
	return list, nil
}

// idFilter is containerd's filter for names that begin as the pattern says.
func idFilter(pattern string) string { return "id~=" + strconv.Quote("^"+pattern) }

// Create makes a lease. One whose answer gets lost may have been made. When ctx ends the call to the daemon goes on for a while, since the daemon
// may do at any later time what it was asked by a call that was given up: after the deletion, too, by which the caller takes it back.
func (l *leaseManager) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	var wish leases.Lease
	for _, opt := range opts {
		if err := opt(&wish); err != nil {
			return leases.Lease{}, err
		}
	}
	if !l.creates.begin() {
		return leases.Lease{}, errors.WithStack(ErrClosed)
	}
	made, err := l.beginMaking(ctx, wish.ID)
	if err != nil {
		l.creates.end()
		return leases.Lease{}, err
	}
	type answer struct {
		lease leases.Lease
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		defer l.creates.end()
		defer made()
		cctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		if deadline, ok := ctx.Deadline(); ok { // which is the caller's limit, and may be a long one
			cctx, cancel = context.WithDeadline(cctx, deadline.Add(creationGrace))
			defer cancel()
		}
		stop := context.AfterFunc(ctx, func() {
			timer := time.AfterFunc(creationGrace, cancel)
			context.AfterFunc(cctx, func() { timer.Stop() })
		})
		defer stop()
		lease, err := l.Manager.Create(cctx, func(lease *leases.Lease) error {
			*lease = wish
			return nil
		})
		answers <- answer{lease, err}
	}()
	select {
	case a := <-answers:
		return a.lease, a.err
	case <-ctx.Done():
		return leases.Lease{}, errors.Wrapf(ctx.Err(), "lease %q", wish.ID)
	}
}

// beginMaking notes that a lease is being made, when nobody else is making it any more. Made has to be called when that has ended.
func (l *leaseManager) beginMaking(ctx context.Context, id string) (made func(), err error) {
	for {
		if err := l.waitMade(ctx, id); err != nil {
			return nil, err
		}
		l.mu.Lock()
		if l.mu.making[id] == nil {
			break
		}
		l.mu.Unlock()
	}
	defer l.mu.Unlock()
	ended := make(chan struct{})
	l.mu.making[id] = ended
	if derived(id) {
		l.mu.known[id] = struct{}{}
	}
	return func() {
		l.mu.Lock()
		delete(l.mu.making, id)
		l.mu.Unlock()
		close(ended)
	}, nil
}

// waitMade waits until a lease is not being made.
func (l *leaseManager) waitMade(ctx context.Context, id string) error {
	l.mu.Lock()
	ended := l.mu.making[id]
	l.mu.Unlock()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return errors.Wrapf(ctx.Err(), "waiting for lease %q to be made", id)
	}
}

// close waits for what goes on, and lets nothing more begin.
func (l *leaseManager) close() error {
	l.creates.finish()
	return nil
}

// Delete drops a lease, if there may be such a one. One that is still being made is waited for.
func (l *leaseManager) Delete(ctx context.Context, lease leases.Lease, opts ...leases.DeleteOpt) error {
	if err := l.waitMade(ctx, lease.ID); err != nil {
		return err
	}
	if !derived(lease.ID) {
		return l.Manager.Delete(ctx, lease, opts...)
	}
	if !l.mayExist(lease.ID) {
		return errors.Wrapf(errdefs.ErrNotFound, "lease %q", lease.ID)
	}
	err := l.Manager.Delete(ctx, lease, opts...)
	if err == nil || errdefs.IsNotFound(err) {
		l.mu.Lock()
		delete(l.mu.known, lease.ID)
		l.mu.Unlock()
	}
	return err
}

func (l *leaseManager) mayExist(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, known := l.mu.known[id]
	return known || !l.mu.listed
}
