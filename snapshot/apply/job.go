package apply

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/pkg/archive"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot"
)

// job is one call, which may have to read its layer twice.
type job struct {
	*Applier
	desc   ocispecs.Descriptor
	config diff.ApplyConfig
	// syncPath is on the filesystem that takes the files, if that is not the one of the directory written to.
	syncPath string
	// reported is how much of the blob Progress knows of: it never goes back.
	reported int64
}

func (a *Applier) newJob(ctx context.Context, desc ocispecs.Descriptor, opts []diff.ApplyOpt) (*job, error) {
	j := &job{Applier: a, desc: desc}
	for _, opt := range opts {
		if err := opt(ctx, desc, &j.config); err != nil {
			return nil, errors.Wrapf(err, "option for unpacking layer %s", desc.Digest)
		}
	}
	return j, nil
}

// run unpacks the layer into dir; detached says that dir is an overlay's upper directory and takes marks instead of deletions.
func (j *job) run(ctx context.Context, dir string, detached bool) (_ ocispecs.Descriptor, err error) {
	defer func() {
		if err != nil {
			err = errors.WithMessagef(err, "unpacking layer %s", j.desc.Digest)
		}
	}()
	var disk *disk
	if j.config.SyncFs {
		at := j.syncPath
		if at == "" {
			at = dir
		}
		if disk, err = openDisk(at); err != nil {
			return ocispecs.Descriptor{}, err
		}
		defer disk.close()
	}
	result, err := j.unpack(ctx, dir, detached)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	if disk != nil {
		if err := j.syncs.sync(ctx, disk); err != nil {
			return ocispecs.Descriptor{}, err
		}
	}
	return result, nil
}

func (j *job) unpack(ctx context.Context, dir string, detached bool) (_ ocispecs.Descriptor, err error) {
	s, err := j.open(ctx)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	defer func() {
		if cerr := s.close(); cerr != nil && err == nil {
			err = cerr
		}
	}()
	l := newLayer(dir, detached, j.squash)
	l.keep = j.keep
	opts := []archive.ApplyOpt{archive.WithFilter(l.filter), archive.WithConvertWhiteout(l.convert)}
	if j.squash {
		opts = append(opts, archive.WithNoSameOwner())
	}
	if _, err := archive.Apply(ctx, dir, s, opts...); err != nil {
		return ocispecs.Descriptor{}, blame(ctx, err, s.err)
	}
	if err := l.finish(); err != nil {
		return ocispecs.Descriptor{}, blame(ctx, err, nil)
	}
	// What follows the archive's end is part of what the diff ID names.
	if _, err := io.Copy(io.Discard, s); err != nil {
		return ocispecs.Descriptor{}, blame(ctx, err, s.err)
	}
	if err := s.processed(); err != nil {
		return ocispecs.Descriptor{}, err
	}
	result := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: s.digester.Digest(), Size: s.size}
	if l.squashed {
		result.Annotations = map[string]string{snapshot.AnnotationSquashed: "true"}
	}
	return result, nil
}
