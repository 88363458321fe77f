package cache_test

import (
	"context"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/usage"
)

// Spec API-1: the interfaces are layered.
var (
	_ interface {
		cache.Accessor
		cache.Controller
		Close() error
	} = cache.Manager(nil)
	_ cache.MetadataStore = cache.Accessor(nil)
	_ interface {
		cache.Mountable
		cache.RefMetadata
	} = cache.Ref(nil)
)

// Options of the wrong kind for every call: nil, and a constant that is none of the package's.
var badOptions = map[string]cache.RefOption{
	"nil":     nil,
	"unknown": cache.NoUpdateLastUsed + 1,
	"minus":   cache.CachePolicyDefault - 1,
}

// Spec API-2, OPT-2: an option that means nothing is an invalid argument rather than ignored.
func TestBadOptions(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	layer := finalized(t, env, nil, nil)
	for name, opt := range badOptions {
		imm, err := env.Manager.Get(ctx, layer.ID(), nil, cache.NoUpdateLastUsed, opt)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		require.True(t, imm == nil, "untyped nil (quirk Q01)")
		mut, err := env.Manager.GetMutable(ctx, layer.ID(), opt)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		require.True(t, mut == nil)
		mut, err = env.Manager.New(ctx, layer, nil, opt)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		require.True(t, mut == nil)
	}
	require.Equal(t, 1, env.Manager.Stats().Refs)
	release(t, layer)
}

// Spec OPT-1, OPT-4, OPT-5, section 0.5: which call honours which option.
func TestOptions(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	x, y := digest.FromString("x"), digest.FromString("y")
	first, second := cache.DescHandlers{x: {Ref: "first"}}, cache.DescHandlers{x: {Ref: "second"}, y: {}}
	created := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)

	mut := newMutable(t, env, nil, cache.WithDescription("a"), cache.WithDescription("b"), cache.WithRecordType(usage.TypeInternal),
		cache.WithCreationTime(created), cache.CachePolicyDefault, cache.CachePolicyRetain,
		cache.WithImageRef("i1"), cache.WithImageRef("i2"), cache.WithImageRef("i1"), first, cache.NoUpdateLastUsed, cache.Unlazy(nil))
	check := func(ref cache.Ref) {
		t.Helper()
		require.Equal(t, "b", ref.GetDescription(), "the last wins")
		require.Equal(t, usage.TypeInternal, ref.GetRecordType())
		require.Equal(t, created, ref.GetCreatedAt())
		require.True(t, ref.HasCachePolicyRetain())
		require.JSONEq(t, `["i1","i2"]`, string(ref.Get("cache.imageRefs").Value), "META-12")
	}
	check(mut)
	require.Nil(t, mut.DescHandler(x), "MGR-4: New has the parent's handlers only")
	id := mut.ID()
	release(t, mut)
	require.Equal(t, 1, usageByID(t, env)[id].UsageCount, "New counts whatever the options say")

	mut, err := env.Manager.GetMutable(ctx, id, cache.WithDescription("c"), cache.WithRecordType(usage.TypeRegular),
		cache.WithCreationTime(time.Unix(1, 0)), cache.CachePolicyDefault, cache.WithImageRef("i3"), first, second)
	require.NoError(t, err)
	check(mut)
	require.Equal(t, "first", mut.DescHandler(x).Ref, "the first map wins as a whole")
	require.Nil(t, mut.DescHandler(y))
	release(t, mut)

	ref := get(t, env, id, cache.WithDescription("c"), cache.WithCreationTime(time.Unix(1, 0)), cache.CachePolicyRetain, second, first)
	require.Equal(t, "b", ref.GetDescription(), "copied by the Commit that Get does")
	require.True(t, ref.HasCachePolicyDefault())
	require.Equal(t, env.Clock.Now().UnixNano(), ref.GetCreatedAt().UnixNano())
	require.Equal(t, "second", ref.DescHandler(x).Ref)
	child := newMutable(t, env, ref, first)
	require.Equal(t, "second", child.DescHandler(x).Ref, "MGR-4")
	release(t, ref, child)
	env.Reopen()
}

// Spec API-3, section 0.4, quirks Q01, Q79: every refusal is of the kind it should be, says which
// record it is about, and comes with an untyped nil.
func TestErrorKinds(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	m := env.Manager
	ready, pair := finalized(t, env, nil, nil), testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	mut := newMutable(t, env, nil)
	require.ErrorIs(t, cache.ErrLocked, errdefs.ErrUnavailable)
	require.ErrorIs(t, cache.ErrClosed, errdefs.ErrFailedPrecondition)
	require.ErrorIs(t, cache.ErrNoBlobs, errdefs.ErrFailedPrecondition)
	require.ErrorIs(t, cache.ErrNotExtracted, errdefs.ErrFailedPrecondition)
	require.ErrorIs(t, cache.NeedsRemoteProviderError{digest.FromString("x")}, errdefs.ErrFailedPrecondition)
	require.False(t, cache.IsNotFound(nil))
	require.False(t, cache.IsNotFound(errdefs.ErrNotFound), "the backend's is another")
	for _, c := range []struct {
		id               string
		mutable          bool
		locked, notFound bool
	}{
		{id: mut.ID(), locked: true},
		{id: mut.ID(), mutable: true, locked: true},
		{id: mutableID(t, env, pair), locked: true},
		{id: mutableID(t, env, pair), mutable: true, locked: true},
		{id: pair.ID(), mutable: true},
		{id: ready.ID(), mutable: true},
		{id: "unknown", notFound: true},
		{id: "unknown", mutable: true, notFound: true},
	} {
		var err error
		if c.mutable {
			var ref cache.MutableRef
			ref, err = m.GetMutable(ctx, c.id)
			require.True(t, ref == nil)
		} else {
			var ref cache.ImmutableRef
			ref, err = m.Get(ctx, c.id, nil)
			require.True(t, ref == nil)
		}
		require.Error(t, err)
		require.Contains(t, err.Error(), c.id)
		require.Equal(t, c.notFound, cache.IsNotFound(err), "%v", err)
		require.Equal(t, c.notFound, errdefs.IsNotFound(err), "%v", err)
		require.Equal(t, c.locked, errdefs.IsUnavailable(err), "%v", err)
		require.Equal(t, !c.locked && !c.notFound, errdefs.IsInvalidArgument(err), "%v", err)
	}
	release(t, ready, pair, mut)
}

// Fault 43, spec MGR-7: no ID or index makes the cache panic, or find what is not there.
func TestHostileNames(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	layer := finalized(t, env, nil, nil)
	for _, id := range []string{
		"", " ", "::", "\x00", "../../etc/passwd", layer.ID() + "-view", layer.ID() + " ", strings.ToUpper(layer.ID()) + "A",
		"\xff\xfe", "%s%n", strings.Repeat("x", 1<<20),
	} {
		_, err := env.Manager.Get(ctx, id, nil)
		require.True(t, cache.IsNotFound(err), "%q", id)
		_, err = env.Manager.GetMutable(ctx, id)
		require.True(t, cache.IsNotFound(err), "%q", id)
		_, err = env.Manager.New(ctx, foreign{id: id}, nil)
		require.True(t, cache.IsNotFound(err), "%q", id)
		mds, err := env.Manager.Search(ctx, id, false)
		require.NoError(t, err)
		require.Empty(t, mds)
		_, err = env.Manager.Search(ctx, id, true)
		require.NoError(t, err)
		require.Empty(t, env.Manager.Holders(id))
	}
	require.Equal(t, 1, env.Manager.Stats().Refs)
	release(t, layer)
}

// foreign is another implementation of a ref: one that wraps a ref, as engines do, or none at all.
type foreign struct {
	cache.ImmutableRef
	id string
}

func (f foreign) ID() string { return f.id }

// Spec OPT-3, MGR-2, MGR-4: a parent of another implementation is looked up by its ID, with the caller's
// handlers and without counting as a use.
func TestForeignParents(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		x := digest.FromString("x")
		pair := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "data"), cache.CachePolicyRetain)
		id := pair.ID()
		require.NoError(t, pair.Finalize(ctx))
		release(t, pair)
		uses := usageByID(t, env)[id].UsageCount
		for range 2 {
			child, err := env.Manager.New(ctx, foreign{id: id}, nil, cache.DescHandlers{x: {Ref: "mine"}})
			require.NoError(t, err)
			require.Equal(t, "mine", child.DescHandler(x).Ref)
			requireUsage(t, env, 2, 0)
			requireFile(t, child, "f", "data")
			require.Equal(t, 2, env.Manager.Stats().Records)
			require.Equal(t, 1, env.Manager.Stats().Refs, "the ref of the look-up is dropped")
			release(t, child)
		}
		require.Equal(t, uses, usageByID(t, env)[id].UsageCount)

		// A wrapper around a released ref, and one that says the ID of an idle mutable record, which is sealed.
		child := newMutable(t, env, foreign{ImmutableRef: pair, id: id}, cache.CachePolicyRetain)
		childID := child.ID()
		release(t, child)
		grandchild := newMutable(t, env, foreign{id: childID})
		requireUsage(t, env, 3, 0)
		release(t, grandchild)
		requireUsage(t, env, 0, 2)
	})
}

// Spec OPT-3, API-3: a ref of another manager is as foreign as any, and not found if its ID is.
func TestParentOfAnotherManager(t *testing.T) {
	env, other := testutil.New(t, testutil.Doubles()), testutil.New(t, testutil.Doubles())
	stranger := finalized(t, other, nil, nil)
	ref, err := env.Manager.New(ctx, stranger, nil)
	require.True(t, cache.IsNotFound(err), "%v", err)
	require.Contains(t, err.Error(), stranger.ID())
	require.True(t, ref == nil)
	release(t, stranger)
}

// Spec MGR-1, section 3: nil is no parent, of whatever type, and a nil session is legal everywhere.
func TestNils(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	layer := finalized(t, env, nil, nil)
	typedNil, ok := reflect.Zero(reflect.TypeOf(layer)).Interface().(cache.ImmutableRef)
	require.True(t, ok)
	var noSession session.Group
	for _, parent := range []cache.ImmutableRef{nil, typedNil} {
		ref, err := env.Manager.New(ctx, parent, noSession)
		require.NoError(t, err)
		require.Empty(t, usageByID(t, env)[ref.ID()].Parents)
		_, err = ref.Mount(ctx, true, nil)
		require.NoError(t, err)
		release(t, ref)
	}
	var none cache.RefList
	require.NoError(t, none.Release(ctx))
	require.NoError(t, cache.RefList{nil, nil}.Release(ctx))
	ref := get(t, env, layer.ID(), cache.DescHandlers(nil), cache.DescHandlers{digest.FromString("x"): nil})
	require.Nil(t, ref.DescHandler(digest.FromString("x")))
	require.Nil(t, ref.DescHandler(""))
	release(t, ref, layer)
}

// Spec API-3, MGR-3: what begins with an ended context fails with its error or needs no backend, and
// leaves nothing behind.
func TestEndedContext(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ended, cancel := context.WithCancel(ctx)
		cancel()
		pair := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
		base := finalized(t, env, nil, nil)
		leases := leaseIDs(t, env)
		ref, err := env.Manager.New(ended, base, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.True(t, ref == nil)
		require.ErrorIs(t, pair.Finalize(ended), context.Canceled)
		m, err := base.Mount(ended, true, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, m)
		m, err = pair.Mount(ended, true, nil)
		require.ErrorIs(t, err, context.Canceled)
		require.Nil(t, m)
		require.ErrorIs(t, env.Manager.Prune(ended, nil, usage.PruneInfo{}), context.Canceled)
		again, err := env.Manager.Get(ended, base.ID(), nil)
		require.NoError(t, err, "memory only")
		release(t, again)

		require.ElementsMatch(t, leases, leaseIDs(t, env))
		requireUsage(t, env, 2, 0)
		_, sealed := pair.GetEqualMutable()
		require.True(t, sealed)
		require.NoError(t, base.Finalize(ended), "REF-10: nothing to do")
		release(t, pair, base)
	})
}

// Section 0.2: each required part is asked for by name.
func TestManagerOptWithoutAPart(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	for name, spoil := range map[string]func(opt *cache.ManagerOpt){
		"Snapshotter":         func(opt *cache.ManagerOpt) { opt.Snapshotter = nil },
		"ContentStore":        func(opt *cache.ManagerOpt) { opt.ContentStore = nil },
		"LeaseManager":        func(opt *cache.ManagerOpt) { opt.LeaseManager = nil },
		"MetadataStore":       func(opt *cache.ManagerOpt) { opt.MetadataStore = nil },
		"Transactions.Update": func(opt *cache.ManagerOpt) { opt.Transactions = &cache.Transactions{} },
	} {
		opt := env.Opt
		spoil(&opt)
		m, err := cache.NewManager(opt)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		require.Contains(t, err.Error(), name)
		require.True(t, m == nil, "untyped nil")
	}
	opt := env.Opt
	opt.Now, opt.GarbageCollect, opt.Root, opt.MountPoolRoot, opt.Transactions = nil, nil, "", "", nil
	m, err := cache.NewManager(opt)
	require.NoError(t, err, "the others are optional")
	ref, err := m.New(ctx, nil, nil)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), ref.GetCreatedAt(), time.Hour)
	release(t, ref)
	require.NoError(t, m.Prune(ctx, nil, usage.PruneInfo{}))
}

// Spec MGR-42: after Close everything that would need the store fails with ErrClosed; what is left ends quietly.
func TestEverythingAfterClose(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	layer := finalized(t, env, nil, nil)
	require.NoError(t, layer.SetExternal("x", []byte("data")))
	retained := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
	mut, m := newMutable(t, env, nil), env.Manager
	require.NoError(t, m.Close())

	errs := map[string]error{
		"Finalize":       retained.Finalize(ctx),
		"Finalize, done": layer.Finalize(ctx),
		"SetDescription": layer.SetDescription("x"),
		"SetString":      layer.SetString("k", "v", ""),
		"SetExternal":    layer.SetExternal("k", nil),
		"Clear":          layer.ClearValueAndIndex("k", ""),
		"Prune":          m.Prune(ctx, nil, usage.PruneInfo{}),
	}
	_, errs["New"] = m.New(ctx, layer, nil)
	_, errs["Get"] = m.Get(ctx, layer.ID(), nil)
	_, errs["Get, unknown"] = m.Get(ctx, "unknown", nil)
	_, errs["GetMutable"] = m.GetMutable(ctx, mut.ID())
	_, errs["Search"] = m.Search(ctx, "x", true)
	_, errs["DiskUsage"] = m.DiskUsage(ctx, usage.DiskUsageInfo{})
	_, errs["Commit"] = mut.Commit(ctx)
	_, errs["Mount"] = layer.Mount(ctx, true, nil)
	_, errs["Mount, mutable"] = mut.Mount(ctx, false, nil)
	_, errs["GetExternal"] = layer.GetExternal("x")
	for name, err := range errs {
		require.ErrorIs(t, err, cache.ErrClosed, name)
		require.True(t, errdefs.IsFailedPrecondition(err), name)
		require.False(t, errdefs.IsNotFound(err), name)
	}
	require.Nil(t, layer.Get("k"))
	require.Empty(t, layer.GetString("k"))
	chain := layer.LayerChain()
	require.Len(t, chain, 1)
	require.NoError(t, chain.Release(ctx))
	release(t, layer.Clone(), layer, layer, retained)
	require.ErrorIs(t, mut.Release(ctx), cache.ErrClosed, "its removal needs the store")
	require.NoError(t, mut.Release(ctx), "and is left to the next start")
	env.Reopen()
	requireUsage(t, env, 0, 2)
	require.Equal(t, 3, rowCount(t, env))
}

// Spec OPT-2: an option of a foreign type, which gets past the compiler by embedding the interface, and values
// that cannot be stored.
func TestForeignAndUnstorableOptions(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	for name, opt := range map[string]cache.RefOption{
		"foreign":  struct{ cache.RefOption }{cache.CachePolicyRetain},
		"too late": cache.WithCreationTime(time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)),
	} {
		ref, err := env.Manager.New(ctx, nil, nil, opt)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		require.True(t, ref == nil, name)
	}
	ref := newMutable(t, env, nil, cache.WithDescription("a\xffb"), cache.WithCreationTime(time.Time{}), cache.CachePolicyRetain)
	require.Equal(t, "a\uFFFDb", ref.GetDescription())
	require.True(t, ref.GetCreatedAt().IsZero())
	release(t, ref)
}

// The events of what happens in a record's slot come when it is left, so that the observer may use the record.
func TestObserverMayUseTheRecordOfTheEvent(t *testing.T) {
	var env *testutil.Env
	seen := map[cache.EventKind]bool{}
	observer := observerFunc(func(ev cache.Event) {
		seen[ev.Kind] = true
		if env == nil || ev.Kind == cache.EventGet || ev.Kind == cache.EventMount || ev.Kind == cache.EventRelease && seen["stop"] {
			return
		}
		short, cancel := context.WithTimeout(ctx, 10*time.Second) // ends only a test that fails
		defer cancel()
		ref, err := env.Manager.Get(short, ev.ID, nil, cache.NoUpdateLastUsed)
		if err != nil {
			require.NotErrorIs(t, err, context.DeadlineExceeded, "%s", ev.Kind)
			return
		}
		_, err = ref.Mount(short, true, nil)
		require.NoError(t, err, "%s", ev.Kind)
		seen["stop"] = true
		require.NoError(t, ref.Release(short))
		seen["stop"] = false
	})
	opened := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Observer = observer }))
	imm := testutil.MakeLayer(t, opened, nil, nil, cache.CachePolicyRetain)
	id := mutableID(t, opened, imm)
	release(t, imm)
	env = opened
	mut, err := env.Manager.GetMutable(ctx, id)
	require.NoError(t, err)
	release(t, mut)
	imm, err = env.Manager.Get(ctx, id, nil)
	require.NoError(t, err, "the observer's ref must be gone by now")
	require.NoError(t, imm.Finalize(ctx))
	release(t, imm)
	require.NoError(t, env.Manager.Prune(ctx, nil, usage.PruneInfo{}))
	env = nil
	for _, kind := range []cache.EventKind{cache.EventReopen, cache.EventRelease, cache.EventFinalize, cache.EventRemove} {
		require.True(t, seen[kind], kind)
	}
}

type observerFunc func(cache.Event)

func (f observerFunc) Observe(ev cache.Event) { f(ev) }
