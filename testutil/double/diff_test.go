package double_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/layercache/cache/testutil/double"
)

// backend is what a script runs on.
type backend struct {
	lm     leases.Manager
	sn     snapshots.Snapshotter
	cs     content.Store
	gc     func(context.Context) (gc.Stats, error)
	update func(context.Context, func(context.Context) error) error
	close  func()
}

func newDouble(dir string) *backend {
	b := double.New(double.WithDir(dir))
	return &backend{b.LeaseManager(), b.Snapshotter(), b.ContentStore(), b.GC, b.Update, func() {}}
}

// newReal puts containerd's own parts together.
func newReal(t require.TestingT, dir string) *backend {
	sn, err := native.NewSnapshotter(filepath.Join(dir, "snapshots"))
	require.NoError(t, err)
	cs, err := local.NewStore(filepath.Join(dir, "content"))
	require.NoError(t, err)
	db, err := bbolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true})
	require.NoError(t, err)
	mdb := metadata.NewDB(db, cs, map[string]snapshots.Snapshotter{"native": sn})
	require.NoError(t, mdb.Init(context.Background()))
	return &backend{
		lm: metadata.NewLeaseManager(mdb), sn: mdb.Snapshotter("native"), cs: mdb.ContentStore(), gc: mdb.GarbageCollect,
		update: func(ctx context.Context, fn func(context.Context) error) error {
			return mdb.Update(func(tx *bbolt.Tx) error { return fn(boltutil.WithTransaction(ctx, tx)) })
		},
		close: func() {
			require.NoError(t, db.Close())
			require.NoError(t, sn.Close())
		},
	}
}

// class returns an error's category.
func class(err error) string {
	for name, is := range map[string]func(error) bool{
		"not found": errdefs.IsNotFound, "exists": errdefs.IsAlreadyExists, "precondition": errdefs.IsFailedPrecondition,
		"invalid": errdefs.IsInvalidArgument, "unavailable": errdefs.IsUnavailable, "not implemented": errdefs.IsNotImplemented,
	} {
		if is(err) {
			return name
		}
	}
	if err != nil {
		return "error"
	}
	return "ok"
}

// dump lists everything that can be seen from outside, without times.
func (b *backend) dump(ctx context.Context) string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	ls, err := b.lm.List(ctx)
	add("leases: %s", class(err))
	for _, l := range ls {
		rs, err := b.lm.ListResources(ctx, l)
		slices.SortFunc(rs, func(x, y leases.Resource) int { return strings.Compare(x.Type+x.ID, y.Type+y.ID) })
		add("lease %s %s %v %s", l.ID, labelText(l.Labels), rs, class(err))
	}
	err = b.sn.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		add("snapshot %s %s %q %s", info.Name, info.Kind, info.Parent, labelText(info.Labels))
		return nil
	})
	add("snapshots: %s", class(err))
	err = b.cs.Walk(ctx, func(info content.Info) error {
		add("blob %s %d %s", info.Digest, info.Size, labelText(info.Labels))
		return nil
	})
	add("content: %s", class(err))
	sts, err := b.cs.ListStatuses(ctx)
	add("ingests: %s", class(err))
	sort.Slice(sts, func(i, j int) bool { return sts[i].Ref < sts[j].Ref })
	for _, st := range sts {
		add("ingest %s %d", st.Ref, st.Offset)
	}
	return strings.Join(lines, "\n")
}

func labelText(labels map[string]string) string {
	var out []string
	for k, v := range labels {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// step is one call of a script. It returns what both backends must agree on.
type step func(ctx context.Context, b *backend) string

var keys = []string{"a", "b", "c", "d", "e"}

func genLabels(t *rapid.T) map[string]string {
	labels := map[string]string{}
	name := rapid.SampledFrom([]string{
		"", "", "plain", "containerd.io/gc.root", "containerd.io/gc.ref.content", "containerd.io/gc.ref.content.0",
		"containerd.io/gc.ref.contents", "containerd.io/gc.ref.snapshot.native", "containerd.io/gc.ref.snapshot.native/x",
		"containerd.io/gc.ref.snapshot.other", "containerd.io/gc.bref.content", "containerd.io/gc.bref.snapshot.native",
	}).Draw(t, "label")
	if name == "" {
		return nil
	}
	if strings.Contains(name, "content") {
		labels[name] = digest.FromString(rapid.SampledFrom(keys).Draw(t, "blob")).String()
	} else {
		labels[name] = rapid.SampledFrom(keys).Draw(t, "target")
	}
	return labels
}

func genResource(t *rapid.T) leases.Resource {
	kind := rapid.SampledFrom([]string{"snapshots/native", "snapshots/native", "content", "ingests", "snapshots", "snapshots/other", "content/x", "strange"}).Draw(t, "kind")
	id := rapid.SampledFrom(keys).Draw(t, "id")
	if kind == "content" && rapid.IntRange(0, 9).Draw(t, "valid") > 0 {
		id = digest.FromString(id).String()
	}
	return leases.Resource{Type: kind, ID: id}
}

func createLease(id string, labels map[string]string) step {
	return func(ctx context.Context, b *backend) string {
		_, err := b.lm.Create(ctx, leases.WithID(id), leases.WithLabels(labels))
		return "create " + class(err)
	}
}

func deleteLease(id string) step {
	return func(ctx context.Context, b *backend) string {
		return "delete " + class(b.lm.Delete(ctx, leases.Lease{ID: id}))
	}
}

func genLease(t *rapid.T) step {
	id := rapid.SampledFrom(keys).Draw(t, "lease")
	l := leases.Lease{ID: id}
	switch rapid.IntRange(0, 3).Draw(t, "call") {
	case 0:
		labels := map[string]string{}
		for _, name := range []string{"containerd.io/gc.flat", "plain"} {
			if rapid.Bool().Draw(t, name) {
				labels[name] = "1"
			}
		}
		if rapid.IntRange(0, 3).Draw(t, "expires") == 0 {
			labels["containerd.io/gc.expire"] = rapid.SampledFrom([]string{
				time.Now().Add(-time.Hour).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339), "never",
			}).Draw(t, "when")
		}
		return createLease(id, labels)
	case 1:
		return deleteLease(id)
	case 2:
		r := genResource(t)
		return func(ctx context.Context, b *backend) string {
			return fmt.Sprintf("add %v %s", r, class(b.lm.AddResource(ctx, l, r)))
		}
	default:
		r := genResource(t)
		return func(ctx context.Context, b *backend) string {
			return fmt.Sprintf("drop %v %s", r, class(b.lm.DeleteResource(ctx, l, r)))
		}
	}
}

func genSnapshot(t *rapid.T) step {
	key, parent := rapid.SampledFrom(keys).Draw(t, "key"), rapid.SampledFrom(append([]string{"", ""}, keys...)).Draw(t, "parent")
	opt := snapshots.WithLabels(genLabels(t))
	switch rapid.IntRange(0, 6).Draw(t, "call") {
	case 0, 1:
		return func(ctx context.Context, b *backend) string {
			m, err := b.sn.Prepare(ctx, key, parent, opt)
			return fmt.Sprintf("prepare %d %s", len(m), class(err))
		}
	case 2:
		return func(ctx context.Context, b *backend) string {
			m, err := b.sn.View(ctx, key, parent, opt)
			return fmt.Sprintf("view %d %s", len(m), class(err))
		}
	case 3, 4:
		name := rapid.SampledFrom(keys).Draw(t, "name")
		return func(ctx context.Context, b *backend) string {
			return "commit " + class(b.sn.Commit(ctx, name, key, opt))
		}
	case 5:
		path := rapid.SampledFrom([][]string{nil, {"labels"}, {"labels.plain"}, {"parent"}}).Draw(t, "path")
		info := snapshots.Info{Name: key, Labels: genLabels(t)}
		return func(ctx context.Context, b *backend) string {
			out, err := b.sn.Update(ctx, info, path...)
			return fmt.Sprintf("update %q %s %s", out.Parent, labelText(out.Labels), class(err))
		}
	default:
		return func(ctx context.Context, b *backend) string {
			m, merr := b.sn.Mounts(ctx, key)
			u, uerr := b.sn.Usage(ctx, key)
			info, serr := b.sn.Stat(ctx, key)
			text := fmt.Sprintf("%d %v %s %s %s %s", len(m), u, info.Kind, class(merr), class(uerr), class(serr))
			if len(m) == 1 {
				text += m[0].Type + strings.Join(m[0].Options, ",")
			}
			return text
		}
	}
}

// write writes text under a ref, unless an earlier writer left something there, and commits or keeps it. The
// descriptor says what the writer is told that it will get.
func write(ref, text string, desc ocispecs.Descriptor, commit bool, labels map[string]string) step {
	return func(ctx context.Context, b *backend) string {
		w, err := b.cs.Writer(ctx, content.WithRef(ref), content.WithDescriptor(desc))
		if err != nil {
			return "writer " + class(err)
		}
		st, serr := w.Status()
		if st.Offset == 0 {
			_, err = w.Write([]byte(text))
		}
		end := w.Close
		if commit {
			end = func() error {
				return w.Commit(ctx, int64(len(text)), digest.FromString(text), content.WithLabels(labels))
			}
		}
		return fmt.Sprintf("write %d %s %s %s", st.Offset, class(serr), class(err), class(end()))
	}
}

func deleteBlob(text string) step {
	return func(ctx context.Context, b *backend) string {
		return "delete " + class(b.cs.Delete(ctx, digest.FromString(text)))
	}
}

func genContent(t *rapid.T) step {
	text := rapid.SampledFrom(keys).Draw(t, "text")
	dgst := digest.FromString(text)
	switch rapid.IntRange(0, 4).Draw(t, "call") {
	case 0, 1:
		ref := rapid.SampledFrom(keys).Draw(t, "ref")
		commit, named := rapid.Bool().Draw(t, "commit"), rapid.Bool().Draw(t, "named")
		labels := genLabels(t)
		var desc ocispecs.Descriptor
		if named {
			desc = ocispecs.Descriptor{Digest: dgst, Size: int64(len(text))}
		}
		return write(ref, text, desc, commit, labels)
	case 2:
		return deleteBlob(text)
	case 3:
		ref := rapid.SampledFrom(keys).Draw(t, "ref")
		return func(ctx context.Context, b *backend) string { return "abort " + class(b.cs.Abort(ctx, ref)) }
	default:
		info := content.Info{Digest: dgst, Labels: genLabels(t)}
		return func(ctx context.Context, b *backend) string {
			out, err := b.cs.Update(ctx, info)
			data, rerr := content.ReadBlob(ctx, b.cs, ocispecs.Descriptor{Digest: dgst, Size: 1})
			return fmt.Sprintf("update %d %s %s %q %s", out.Size, labelText(out.Labels), class(err), data, class(rerr))
		}
	}
}

// genTransaction groups lease calls and, last, one commit; its end may fail.
func genTransaction(t *rapid.T) step {
	var steps []step
	for range rapid.IntRange(1, 3).Draw(t, "calls") {
		steps = append(steps, genLease(t))
	}
	key, name := rapid.SampledFrom(keys).Draw(t, "key"), rapid.SampledFrom(keys).Draw(t, "name")
	if name == key {
		// A commit that failed leaves debris behind until its transaction is rolled back. Which, nobody should rely on.
		name = "f"
	}
	fails := rapid.Bool().Draw(t, "fails")
	return func(ctx context.Context, b *backend) string {
		var out []string
		err := b.update(ctx, func(ctx context.Context) error {
			for _, s := range steps {
				out = append(out, s(ctx, b))
			}
			err := b.sn.Commit(ctx, name, key)
			out = append(out, class(err), b.dump(ctx))
			if fails {
				return errors.New("outer commit failed")
			}
			return err
		})
		return strings.Join(out, "; ") + " " + class(err)
	}
}

func genStep(t *rapid.T) step {
	var s step
	switch rapid.IntRange(0, 9).Draw(t, "part") {
	case 0, 1, 2:
		s = genLease(t)
	case 3, 4, 5:
		s = genSnapshot(t)
	case 6, 7:
		s = genContent(t)
	case 8:
		s = genTransaction(t)
	default:
		return collect
	}
	if lease := rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "in lease"); lease != "" {
		return inLease(lease, s)
	}
	return s
}

func collect(ctx context.Context, b *backend) string {
	_, err := b.gc(ctx)
	return "gc " + class(err)
}

func inLease(id string, s step) step {
	return func(ctx context.Context, b *backend) string { return s(leases.WithLease(ctx, id), b) }
}

// pair is the double and containerd, side by side.
type pair struct {
	ctx        context.Context
	fake, peer *backend
	ran        int
}

func newPair(t require.TestingT, dir string) *pair {
	require.NoError(t, mkdirs(dir, "double", "real"))
	p := &pair{
		ctx:  namespaces.WithNamespace(context.Background(), "test"),
		fake: newDouble(filepath.Join(dir, "double")), peer: newReal(t, filepath.Join(dir, "real")),
	}
	for _, b := range []*backend{p.fake, p.peer} {
		// Until the first snapshot, containerd fails a commit one step earlier, before it touches the lease.
		_, err := b.sn.Prepare(p.ctx, "first", "")
		require.NoError(t, err)
	}
	return p
}

// run makes one call on both and returns its outcome, on which they must agree.
func (p *pair) run(t require.TestingT, s step) string {
	want, got := s(p.ctx, p.peer), s(p.ctx, p.fake)
	require.Equal(t, want, got, "step %d", p.ran)
	require.Equal(t, p.peer.dump(p.ctx), p.fake.dump(p.ctx), "state after step %d (%s)", p.ran, want)
	p.ran++
	return want
}

// TestAgainstContainerd runs random scripts of lease, snapshot, content and transaction calls with
// garbage collections in between on the double and on containerd's metadata store with its native
// snapshotter. Every call's outcome and the whole visible state agree after every call (spec LEASE-1, LEASE-2).
func TestAgainstContainerd(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		sub := filepath.Join(dir, fmt.Sprint(runs))
		p := newPair(t, sub)
		defer func() {
			p.peer.close()
			require.NoError(t, os.RemoveAll(sub)) // thousands of runs fill a disk
		}()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			p.run(t, genStep(t))
		}
	})
}
