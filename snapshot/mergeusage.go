package snapshot

import (
	"context"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/pkg/errors"
)

// Labels of merged snapshots, which BuildKit reads and writes, too: what the snapshot itself takes up, without the files that it shares
// with others, in bytes and inodes (spec MRG-5).
const (
	labelMergeSize   = "buildkit.mergeUsageSize"
	labelMergeInodes = "buildkit.mergeUsageInodes"
)

func withMergeUsage(u snapshots.Usage) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{
		labelMergeSize:   strconv.FormatInt(u.Size, 10),
		labelMergeInodes: strconv.FormatInt(u.Inodes, 10),
	})
}

// LabelKnower is a Snapshotter that may know a snapshot's labels without asking where it is: one in another process, for instance. Usage of a
// MergeSnapshotter on it then does not Stat.
type LabelKnower interface {
	// KnownLabels returns the labels of a committed snapshot, for reading, if they are known. Whether it still exists is another question.
	KnownLabels(key string) (labels map[string]string, known bool)
}

func (sn *mergeSnapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	if k, ok := sn.Snapshotter.(LabelKnower); ok {
		if labels, known := k.KnownLabels(key); known {
			u, ok, err := mergeUsage(snapshots.Info{Name: key, Labels: labels})
			if err == nil && !ok {
				u, err = sn.Snapshotter.Usage(ctx, key)
			}
			return u, err
		}
	}
	info, err := sn.Stat(ctx, key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	u, ok, err := mergeUsage(info)
	if err != nil || ok {
		return u, err
	}
	return sn.Snapshotter.Usage(ctx, key)
}

// mergeUsage reads the labels. One that is missing stands for 0 if the other is there.
func mergeUsage(info snapshots.Info) (u snapshots.Usage, ok bool, err error) {
	for _, l := range []struct {
		label string
		to    *int64
	}{{labelMergeSize, &u.Size}, {labelMergeInodes, &u.Inodes}} {
		value, has := info.Labels[l.label]
		if !has {
			continue
		}
		ok = true
		if *l.to, err = strconv.ParseInt(value, 10, 64); err != nil {
			return snapshots.Usage{}, false, errors.Wrapf(err, "label %s of snapshot %s", l.label, info.Name)
		}
	}
	return u, ok, nil
}
