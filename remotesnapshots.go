package cache

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
)

// This file holds what snapshotters need that provide layers by themselves, from afar (spec 3.6). Which of them
// need what is told by their capabilities.

// labelSessionPrefix begins the labels that name the sessions a remote snapshotter may ask for credentials.
const labelSessionPrefix = "containerd.io/snapshot/remote/stargz.session."

// withRemoteLabels runs fn while the remote snapshots among the layers of rec have labels that say how to get
// at their data on behalf of this caller (spec REM-1). Where the snapshotter needs none, or rec is nil, it just runs fn.
func (m *manager) withRemoteLabels(ctx context.Context, rec *graph.Record, src source, fn func(ctx context.Context) error) error {
	if !m.caps.SessionLabels || rec == nil {
		return fn(ctx)
	}
	return m.withLabelsOn(ctx, graph.Layers(rec), src, fn)
}

// withLabelsOn is withRemoteLabels for a list of layers.
func (m *manager) withLabelsOn(ctx context.Context, layers []*graph.Record, src source, fn func(ctx context.Context) error) error {
	marked, err := m.addRemoteLabels(ctx, layers, src)
	defer m.removeRemoteLabels(context.WithoutCancel(ctx), marked)
	if err != nil {
		return err
	}
	return fn(ctx)
}

// addRemoteLabels labels those of the layers' snapshots that are remote and have a handler. It returns the labels
// to remove by snapshot, also with an error.
func (m *manager) addRemoteLabels(ctx context.Context, layers []*graph.Record, src source) (map[string][]string, error) {
	marked := map[string][]string{}
	for _, layer := range layers {
		st := m.g.Status(layer)
		dh := src.handlerOf(st.Blob)
		if dh == nil || marked[st.ImmSnapshot] != nil {
			continue
		}
		info, err := m.opt.Snapshotter.Stat(ctx, st.ImmSnapshot)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return marked, errors.Wrapf(err, "looking for snapshot %q", st.ImmSnapshot)
		}
		if _, remote := info.Labels[snapshot.LabelRemote]; !remote {
			continue
		}
		add := temporaryLabels(dh, src.session)
		if len(add) == 0 {
			continue
		}
		marked[st.ImmSnapshot] = slices.Sorted(maps.Keys(add))
		if err := m.relabel(ctx, st.ImmSnapshot, add); err != nil {
			return marked, errors.Wrapf(err, "labelling snapshot %q", st.ImmSnapshot)
		}
	}
	return marked, nil
}

// removeRemoteLabels takes back what addRemoteLabels added.
func (m *manager) removeRemoteLabels(ctx context.Context, marked map[string][]string) {
	for id, labels := range marked {
		none := map[string]string{}
		for _, l := range labels {
			none[l] = ""
		}
		if err := m.relabel(ctx, id, none); err != nil && !errdefs.IsNotFound(err) {
			log.G(ctx).WithError(err).WithField("snapshot", id).Warn("layer cache: temporary labels are left on a remote snapshot")
		}
	}
}

// relabel sets labels of a snapshot, or removes those whose value is empty, and leaves all others alone.
func (m *manager) relabel(ctx context.Context, id string, labels map[string]string) error {
	_, err := m.opt.Snapshotter.Update(ctx, snapshots.Info{Name: id, Labels: labels}, labelPaths(labels)...)
	return err
}

// handlerOf returns the handler for a blob; nil if there is none.
func (s source) handlerOf(b *graph.Blob) *DescHandler {
	if b == nil {
		return nil
	}
	return s.handlers[digest.Digest(b.Digest)]
}

// inheritable are the labels of a handler that snapshotters may see.
func inheritable(dh *DescHandler) map[string]string {
	out := map[string]string{}
	for k, v := range snapshots.FilterInheritedLabels(dh.SnapshotLabels) {
		if fitsLabel(k, v) {
			out[k] = v
		}
	}
	return out
}

// temporaryLabels are a handler's labels and the caller's sessions, under keys that nobody else uses, so that
// concurrent callers do not remove each other's.
func temporaryLabels(dh *DescHandler, s session.Group) map[string]string {
	suffix := "." + newID()
	out := map[string]string{}
	for k, v := range inheritable(dh) {
		if fitsLabel(k+suffix, v) {
			out[k+suffix] = v
		}
	}
	for i, id := range session.AllSessionIDs(s) {
		if k := labelSessionPrefix + strconv.Itoa(i) + suffix; fitsLabel(k, id) {
			out[k] = id
		}
	}
	return out
}

// prepareRemote asks the snapshotter to provide the layers of rec itself, bottom first (spec REM-2). It ends without an
// error at the first layer that it does not provide or has no handler: from there on layers are
// extracted as usual.
func (m *manager) prepareRemote(ctx context.Context, rec *graph.Record, src source) error {
	for _, layer := range graph.Layers(rec) {
		st := m.g.Status(layer)
		exists, err := m.snapshotExists(ctx, st.ImmSnapshot)
		if err != nil {
			return err
		}
		if exists {
			continue
		}
		dh := src.handlerOf(st.Blob)
		if dh == nil {
			return nil
		}
		provided, err := m.askForRemote(ctx, layer, st, dh, src)
		if err != nil || !provided {
			return err
		}
	}
	return nil
}

// askForRemote asks for one layer. A snapshotter that can provide it answers that it exists already.
func (m *manager) askForRemote(ctx context.Context, layer *graph.Record, st graph.Status, dh *DescHandler, src source) (provided bool, err error) {
	below := ""
	if layer.Kind() == graph.Layer {
		below = m.g.Status(layer.Parents()[0]).ImmSnapshot
	}
	labels := inheritable(dh)
	var temporary map[string]string
	if m.caps.SessionLabels {
		temporary = temporaryLabels(dh, src.session)
		maps.Copy(labels, temporary)
	}
	labels[snapshot.LabelRef] = st.ImmSnapshot
	key := "tmp-" + newID() + " " + st.Blob.ChainID
	work, err := m.leaseWork(ctx, st.Imm, nil, m.snapshotResource(key), m.snapshotResource(st.ImmSnapshot))
	if err != nil {
		return false, err
	}
	err = m.opt.Snapshotter.Prepare(work.with(ctx), key, below, snapshots.WithLabels(labels))
	if !errdefs.IsAlreadyExists(err) {
		work.end(ctx)
		m.collectGarbage(ctx) // what was prepared, if anything
		return false, err
	}
	defer work.end(ctx)
	exists, err := m.snapshotExists(ctx, st.ImmSnapshot)
	if exists && len(temporary) > 0 {
		m.removeRemoteLabels(context.WithoutCancel(ctx), map[string][]string{st.ImmSnapshot: slices.Sorted(maps.Keys(temporary))})
	}
	return exists, err
}
