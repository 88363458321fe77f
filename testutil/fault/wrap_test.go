package fault_test

import (
	"context"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/gc"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/double"
	"github.com/layercache/cache/testutil/fault"
)

type nopDiff struct{}

func (nopDiff) Apply(context.Context, ocispecs.Descriptor, []mount.Mount, ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	return ocispecs.Descriptor{}, nil
}

func (nopDiff) Compare(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispecs.Descriptor, error) {
	return ocispecs.Descriptor{}, nil
}

// arguments makes arguments that no method minds: a context, functions that return nil, and
// otherwise zero values.
func arguments(method reflect.Type) []reflect.Value {
	var args []reflect.Value
	n := method.NumIn()
	if method.IsVariadic() {
		n--
	}
	for i := range n {
		in := method.In(i)
		switch {
		case in == reflect.TypeFor[context.Context]():
			args = append(args, reflect.ValueOf(context.Background()))
		case in.Kind() == reflect.Func:
			args = append(args, reflect.MakeFunc(in, func([]reflect.Value) []reflect.Value {
				var out []reflect.Value
				for k := range in.NumOut() {
					out = append(out, reflect.Zero(in.Out(k)))
				}
				return out
			}))
		default:
			args = append(args, reflect.Zero(in))
		}
	}
	return args
}

// lastError returns the error among the results of a call.
func lastError(t *testing.T, out []reflect.Value) error {
	require.NotEmpty(t, out)
	err, _ := out[len(out)-1].Interface().(error)
	return err
}

type part struct {
	name  string
	iface reflect.Type
	// open wraps a fresh part.
	open func(t *testing.T, f *fault.Faults) any
	// constant are the methods that ask for constants and pass no points.
	constant []string
	// inner is the number of points more that a method passes inside the call.
	inner map[string]int
}

func parts() []part {
	writer := func(t *testing.T, cs content.Store) content.Writer {
		w, err := cs.Writer(fault.Quiet(context.Background()), content.WithRef("w"))
		require.NoError(t, err)
		return w
	}
	blob := func(t *testing.T, cs content.Store) ocispecs.Descriptor {
		w := writer(t, cs)
		_, err := w.Write([]byte("blob"))
		require.NoError(t, err)
		require.NoError(t, w.Commit(fault.Quiet(context.Background()), 0, ""))
		return ocispecs.Descriptor{Digest: digest.FromString("blob"), Size: 4}
	}
	return []part{
		{name: "leases", iface: reflect.TypeFor[leases.Manager](), open: func(_ *testing.T, f *fault.Faults) any {
			return f.LeaseManager(double.New().LeaseManager())
		}},
		{
			name: "snapshotter", iface: reflect.TypeFor[snapshot.Snapshotter](), constant: []string{"Name", "IdentityMapping"},
			open: func(_ *testing.T, f *fault.Faults) any {
				return f.Snapshotter(snapshot.FromContainerdSnapshotter("native", double.New().Snapshotter(), nil))
			},
		},
		{name: "containerd snapshotter", iface: reflect.TypeFor[snapshots.Snapshotter](), open: func(_ *testing.T, f *fault.Faults) any {
			return f.ContainerdSnapshotter(double.New().Snapshotter())
		}},
		{name: "cleaner", iface: reflect.TypeFor[snapshots.Cleaner](), open: func(_ *testing.T, f *fault.Faults) any {
			return f.ContainerdSnapshotter(double.New().Snapshotter())
		}},
		{name: "content", iface: reflect.TypeFor[content.Store](), open: func(_ *testing.T, f *fault.Faults) any {
			return f.ContentStore(double.New().ContentStore())
		}},
		{name: "writer", iface: reflect.TypeFor[content.Writer](), constant: []string{"Digest"}, open: func(t *testing.T, f *fault.Faults) any {
			cs := f.ContentStore(double.New().ContentStore())
			w, err := cs.Writer(context.Background(), content.WithRef("w"))
			require.NoError(t, err)
			f.Reset()
			return w
		}},
		{name: "syncer", iface: reflect.TypeFor[content.Syncer](), open: func(t *testing.T, f *fault.Faults) any {
			cs := f.ContentStore(syncing{double.New().ContentStore()})
			w, err := cs.Writer(context.Background(), content.WithRef("w"))
			require.NoError(t, err)
			f.Reset()
			return w
		}},
		{name: "reader", iface: reflect.TypeFor[content.ReaderAt](), constant: []string{"Size"}, open: func(t *testing.T, f *fault.Faults) any {
			cs := f.ContentStore(double.New().ContentStore())
			ra, err := cs.ReaderAt(context.Background(), blob(t, cs))
			require.NoError(t, err)
			f.Reset()
			return ra
		}},
		{name: "provider", iface: reflect.TypeFor[content.Provider](), open: func(_ *testing.T, f *fault.Faults) any {
			return f.Provider(double.New().ContentStore())
		}},
		{name: "provider's reader", iface: reflect.TypeFor[content.ReaderAt](), constant: []string{"Size"}, open: func(t *testing.T, f *fault.Faults) any {
			cs := double.New().ContentStore()
			ra, err := f.Provider(cs).ReaderAt(context.Background(), blob(t, cs))
			require.NoError(t, err)
			f.Reset()
			return ra
		}},
		{name: "db", iface: reflect.TypeFor[fault.DB](), inner: map[string]int{"Update": 2}, open: func(t *testing.T, f *fault.Faults) any {
			db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			return f.DB(db)
		}},
		{name: "applier", iface: reflect.TypeFor[diff.Applier](), open: func(_ *testing.T, f *fault.Faults) any { return f.Applier(nopDiff{}) }},
		{name: "differ", iface: reflect.TypeFor[diff.Comparer](), open: func(_ *testing.T, f *fault.Faults) any { return f.Differ(nopDiff{}) }},
	}
}

type syncing struct{ content.Store }

type syncingWriter struct{ content.Writer }

func (syncingWriter) Sync() error { return nil }

func (s syncing) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, opts...)
	return syncingWriter{w}, err
}

// TestEveryMethodHitsPoints calls every method of every wrapped interface, found by reflection: each
// passes one point before and one after, and fails where it is told to. A method that slipped
// through would make all tests on top of this package prove nothing (fault 4, fault 29).
func TestEveryMethodHitsPoints(t *testing.T) {
	for _, p := range parts() {
		constant := map[string]bool{}
		for _, name := range p.constant {
			_, ok := p.iface.MethodByName(name)
			require.True(t, ok, "%s has no %s", p.name, name)
			constant[name] = true
		}
		for i := range p.iface.NumMethod() {
			method := p.iface.Method(i)
			t.Run(p.name+"/"+method.Name, func(t *testing.T) {
				f := fault.New()
				w := p.open(t, f)
				require.Implements(t, reflect.New(p.iface).Interface(), w)
				call := func() []reflect.Value {
					return reflect.ValueOf(w).MethodByName(method.Name).Call(arguments(method.Type))
				}
				if constant[method.Name] {
					call()
					require.Zero(t, f.Len())
					return
				}

				boom := errors.New("boom")
				f.FailAt(1, boom)
				require.ErrorIs(t, lastError(t, call()), boom)
				require.Equal(t, 1, f.Len(), "the call must not go on")
				require.Empty(t, f.Pending())
				require.Equal(t, fault.Before, f.Trace()[0].When)

				w = p.open(t, f)
				f.Reset()
				if err := lastError(t, call()); err == nil {
					require.Equal(t, 2+p.inner[method.Name], f.Len())
				} else {
					require.GreaterOrEqual(t, f.Len(), 2)
				}
				trace := f.Trace()
				require.Equal(t, fault.Before, trace[0].When)
				last := trace[len(trace)-1]
				require.Equal(t, fault.After, last.When)
				require.Equal(t, trace[0].Op, last.Op)
				require.Equal(t, 1, f.Count(last.Op))

				w = p.open(t, f)
				f.Reset()
				f.FailAt(len(trace), boom)
				require.Error(t, lastError(t, call()))
				require.Empty(t, f.Pending())
			})
		}
	}
}

// TestFunctions does the same for the parts that are functions.
func TestFunctions(t *testing.T) {
	ctx := context.Background()
	boom := errors.New("boom")
	b := double.New()

	f := fault.New()
	collect := f.GarbageCollect(b.GC)
	_, err := collect(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{fault.OpGarbageCollect}, f.Trace().Ops())
	for n := 1; n <= 2; n++ {
		f.Reset()
		f.FailAt(n, boom)
		_, err = collect(ctx)
		require.ErrorIs(t, err, boom)
	}
	var _ func(context.Context) (gc.Stats, error) = collect

	f.Reset()
	update := f.Transaction(b.Update)
	require.NoError(t, update(ctx, func(context.Context) error { return nil }))
	require.Equal(t, []string{fault.OpTransaction, fault.OpTransactionFn}, f.Trace().Ops())
	require.Equal(t, 4, f.Len())
}

// TestFailingCommit fails a shared transaction at each of its points. Only the last one, after the
// commit, leaves a lease; the database's transactions behave alike (fault 21).
func TestFailingCommit(t *testing.T) {
	ctx := context.Background()
	boom := errors.New("boom")
	for n := 1; n <= 4; n++ {
		f, b := fault.New(), double.New()
		f.FailAt(n, boom)
		err := f.Transaction(b.Update)(ctx, func(ctx context.Context) error {
			_, err := b.LeaseManager().Create(ctx, leases.WithID("l"))
			return err
		})
		require.ErrorIs(t, err, boom)
		ls, err := b.LeaseManager().List(ctx)
		require.NoError(t, err)
		require.Len(t, ls, map[bool]int{true: 1, false: 0}[n == 4], "point %d", n)

		db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
		require.NoError(t, err)
		f.Reset()
		f.FailAt(n, boom)
		err = f.DB(db).Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte("b"))
			return err
		})
		require.ErrorIs(t, err, boom)
		require.NoError(t, db.View(func(tx *bbolt.Tx) error {
			require.Equal(t, n == 4, tx.Bucket([]byte("b")) != nil, "point %d", n)
			return nil
		}))
		require.NoError(t, db.Close())
	}
}

// TestNothingLeaksFromLostAnswers fails Writer and Commit on either side: the ref is free afterwards.
func TestNothingLeaksFromLostAnswers(t *testing.T) {
	ctx := context.Background()
	for _, op := range []string{fault.OpContentWriter, fault.OpWriterCommit} {
		for _, when := range []fault.When{fault.Before, fault.After} {
			f := fault.New()
			cs := f.ContentStore(double.New().ContentStore())
			boom := errors.New("boom")
			in := f.Inject(fault.Match{Op: op, When: when, Times: 1}, fault.Fail(boom))
			w, err := cs.Writer(ctx, content.WithRef("r"))
			if err == nil {
				err = w.Commit(ctx, 0, "")
			}
			require.ErrorIs(t, err, boom)
			require.Equal(t, 1, in.Fired())
			w, err = cs.Writer(ctx, content.WithRef("r"))
			require.NoError(t, err)
			require.NoError(t, w.Close())
		}
	}
}
