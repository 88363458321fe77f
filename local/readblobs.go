package local

import (
	"context"
	stderrors "errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/filters"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// readBlobs is containerd's local content store, open for looking: the real one makes files in its directory when it is opened, to
// find out what the filesystem can do.
//
//	blobs/<algorithm>/<hex>     a blob
//	ingest/<any>/data, ref      what has arrived of one, and the name of the transfer
type readBlobs struct{ root string }

func (s readBlobs) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", errors.Wrapf(errdefs.ErrInvalidArgument, "digest %q: %v", d, err)
	}
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), d.Encoded()), nil
}

func (s readBlobs) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	path, err := s.path(d)
	if err != nil {
		return content.Info{}, err
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return content.Info{}, errors.Wrapf(errdefs.ErrNotFound, "content %s", d)
	}
	if err != nil {
		return content.Info{}, errors.WithStack(err)
	}
	return content.Info{Digest: d, Size: st.Size(), CreatedAt: st.ModTime(), UpdatedAt: st.ModTime()}, nil
}

func (s readBlobs) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	path, err := s.path(desc.Digest)
	if err != nil {
		return nil, err
	}
	r, err := contentlocal.OpenReader(path)
	return r, errors.Wrapf(err, "content %s", desc.Digest)
}

// Walk calls fn for each blob. There are no labels at this level for filters to ask about.
func (s readBlobs) Walk(ctx context.Context, fn content.WalkFunc, _ ...string) error {
	algorithms, err := readNames(filepath.Join(s.root, "blobs"))
	if err != nil {
		return err
	}
	for _, algorithm := range algorithms {
		names, err := readNames(filepath.Join(s.root, "blobs", algorithm))
		if err != nil {
			return err
		}
		for _, name := range names {
			d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), name)
			if d.Validate() != nil {
				continue // not the store's
			}
			info, err := s.Info(ctx, d)
			if err != nil {
				return err
			}
			if err := fn(info); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s readBlobs) Status(_ context.Context, ref string) (content.Status, error) {
	return s.status(digest.FromString(ref).Encoded())
}

// status describes the transfer in a directory below ingest.
func (s readBlobs) status(name string) (content.Status, error) {
	dir := filepath.Join(s.root, "ingest", name)
	ref, err := os.ReadFile(filepath.Join(dir, "ref"))
	if err == nil {
		var st fs.FileInfo
		if st, err = os.Stat(filepath.Join(dir, "data")); err == nil {
			return content.Status{Ref: string(ref), Offset: st.Size(), UpdatedAt: st.ModTime()}, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return content.Status{}, errors.Wrapf(errdefs.ErrNotFound, "transfer in %s", dir)
	}
	return content.Status{}, errors.WithStack(err)
}

// ListStatuses lists the transfers that have a name and data.
func (s readBlobs) ListStatuses(_ context.Context, exprs ...string) ([]content.Status, error) {
	filter, err := filters.ParseAll(exprs...)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	names, err := readNames(filepath.Join(s.root, "ingest"))
	if err != nil {
		return nil, err
	}
	var out []content.Status
	for _, name := range names {
		st, err := s.status(name)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if filter.Match(filters.AdapterFunc(func(path []string) (string, bool) { return st.Ref, len(path) == 1 && path[0] == "ref" })) {
			out = append(out, st)
		}
	}
	return out, nil
}

// readNames lists a directory, which is empty if it does not exist.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.WithStack(err)
	}
	names, err := d.Readdirnames(-1)
	return names, errors.WithStack(stderrors.Join(err, d.Close()))
}

func (readBlobs) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, lookOnly("writing a blob")
}

func (readBlobs) Delete(context.Context, digest.Digest) error { return lookOnly("deleting a blob") }

func (readBlobs) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, lookOnly("labelling a blob")
}

func (readBlobs) Abort(context.Context, string) error { return lookOnly("ending a transfer") }
