package containerd

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/pkg/errors"
)

// reach decides whether this process may work in the daemon's snapshot directories. Remove removes the snapshot that is made to find out:
// the only one ever that is removed by name.
func (p *Parts) reach(ctx context.Context, remove func(ctx context.Context, key string) error) error {
	p.Reach, p.ReachReason = p.opts.Reach, "asked for"
	if p.opts.Reach != ReachProbe {
		return nil
	}
	reason, err := p.probe(ctx, remove)
	if err != nil {
		return errors.Wrap(err, "finding out whether the daemon's snapshots can be reached")
	}
	p.Reach, p.ReachReason = ReachDirect, "the daemon counts a file that was written here"
	if reason != "" {
		p.Reach, p.ReachReason = ReachNone, reason
	}
	return nil
}

// probe returns why the directories cannot be reached, "" if they can. That a path exists here and there proves nothing: there
// may be another daemon's directory of the same name. So a file is written, and the daemon asked how many there are.
func (p *Parts) probe(ctx context.Context, remove func(ctx context.Context, key string) error) (reason string, err error) {
	l, err := p.temporaryLease(ctx)
	if err != nil {
		return "", err
	}
	defer p.dropTemporary(ctx, l)
	ctx = leases.WithLease(ctx, l.ID)
	key := "probe-" + rand.Text()
	if err := p.Snapshotter.Prepare(ctx, key, ""); err != nil {
		return "", err
	}
	defer func() {
		if rerr := remove(context.WithoutCancel(ctx), key); err == nil {
			err = rerr
		}
	}()
	mountable, err := p.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return "", err
	}
	mounts, release, err := mountable.Mount()
	if err != nil {
		return "", err
	}
	if release != nil {
		defer func() {
			if rerr := release(); err == nil {
				err = rerr
			}
		}()
	}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return fmt.Sprintf("snapshots of %s are not plain directories", p.SnapshotterName), nil
	}
	before, err := p.Snapshotter.Usage(ctx, key)
	if err != nil {
		return "", err
	}
	name := filepath.Join(mounts[0].Source, key)
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return err.Error(), nil // which is what was to be found out
	}
	defer os.Remove(name)
	after, err := p.Snapshotter.Usage(ctx, key)
	if err != nil {
		return "", err
	}
	if after.Inodes != before.Inodes+1 {
		return fmt.Sprintf("%s exists here, but is not the daemon's", mounts[0].Source), nil
	}
	return "", nil
}
