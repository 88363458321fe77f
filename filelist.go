package cache

import (
	"archive/tar"
	"context"
	"encoding/json"
	"io"
	"path"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/decompress"
	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/session"
)

// externalFileList is where a record keeps the names in its layer, as a JSON array (spec 1.2).
const externalFileList = "filelist"

// FileList lists what the layer's archive holds (spec REF-20).
func (r *immutableRef) FileList(ctx context.Context, s session.Group) ([]string, error) {
	m := r.m
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrapf(err, "listing record %q", r.id)
	}
	defer m.life.end()
	giveBack, err := r.borrow()
	if err != nil {
		return nil, errors.Wrapf(err, "listing record %q", r.id)
	}
	defer giveBack(ctx)
	st := m.g.Status(r.rec)
	if st.Blob == nil || st.Blob.Digest == "" {
		return nil, nil
	}
	if names, ok := r.keptFileList(); ok {
		return names, nil
	}
	names, err := together(ctx, &m.listings, r.rec, func(ctx context.Context) (names []string, err error) {
		err = m.pinned(ctx, r.rec, func() (err error) {
			names, err = m.listFiles(ctx, r, st, s)
			return err
		})
		return names, err
	})
	if err != nil {
		return nil, &LayerError{Record: r.id, Digest: digest.Digest(st.Blob.Digest), Action: "listing", Err: err}
	}
	return slices.Clone(names), nil // others got the same one
}

// keptFileList returns the list that was stored, unless that is no such list.
func (r *immutableRef) keptFileList() ([]string, bool) {
	data, err := r.GetExternal(externalFileList)
	if err != nil {
		return nil, false
	}
	var names []string
	if json.Unmarshal(data, &names) != nil {
		return nil, false
	}
	return names, true
}

// listFiles fetches the blob if need be, lists it, and keeps the list.
func (m *manager) listFiles(ctx context.Context, r *immutableRef, st graph.Status, s session.Group) ([]string, error) {
	if !isDigest(st.Blob.Digest) {
		return nil, errors.Wrapf(errInvalid, "blob digest %q", st.Blob.Digest)
	}
	c := graph.Candidate{Record: r.rec, ID: st.Imm, SnapshotID: st.ImmSnapshot, Blob: st.Blob}
	if err := m.pull(ctx, &c, r.source(s)); err != nil {
		return nil, err
	}
	names, err := tarNames(ctx, m.opt.ContentStore, descriptorOf(st.Blob))
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(names)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	err = m.store.Write(func(w *metadata.Writer) error {
		row, err := w.Row(st.Imm)
		if err != nil {
			return err
		}
		return row.SetExternal(externalFileList, data)
	})
	return names, errors.Wrap(err, "keeping the list")
}

// tarNames returns the cleaned names in a layer archive, compressed or not, sorted by bytes.
func tarNames(ctx context.Context, provider content.Provider, desc ocispecs.Descriptor) (_ []string, err error) {
	ra, err := provider.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close() // quirk Q43
	plain, err := decompress.New(ctx, io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := plain.Close(); err == nil {
			err = cerr
		}
	}()
	var names []string
	archive := tar.NewReader(plain)
	for {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.Wrapf(errInvalid, "reading the archive: %v", err)
		}
		names = append(names, path.Clean(entry.Name))
	}
	slices.Sort(names)
	return names, nil
}
