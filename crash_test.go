package cache_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/crash"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/usage"
)

// LAYERCACHE_CRASH=full has a process killed at every point of every operation, except that those on many records take one in manyThinned of
// the points at calls that are made for each record; LAYERCACHE_CRASH=every takes these, too. Without it a few are
// chosen at random. LAYERCACHE_CRASH_SEED repeats a choice.
const (
	crashEnv     = "LAYERCACHE_CRASH"
	crashSeedEnv = "LAYERCACHE_CRASH_SEED"
)

// crashSample is how many points of an operation are chosen at random.
const crashSample = 1

// manyThinned is how many of the points that differ in nothing but the record make one that is tried.
const manyThinned = 8

// perRecord are the calls that an operation on many records makes for each of them.
var perRecord = map[string]bool{
	fault.OpLeaseDelete: true, fault.OpSnapshotRemove: true, fault.OpSnapshotStat: true, fault.OpSnapshotUsage: true,
}

// crashBackends are real parts, with fault points above and below containerd's metadata.
var crashBackends = map[string][]testutil.Option{
	"native":   {testutil.Deep()},
	"overlay":  {testutil.Overlay(), testutil.Deep()},
	"separate": {testutil.Separate(), testutil.Deep()},
}

// Names of jobs that are no operations.
const (
	jobOpen   = "(open)"   // opens what another process left
	jobCreate = "(create)" // opens an empty directory
)

// Fault 29, spec INIT-1, INIT-2, INIT-5, INIT-6, INIT-10, INIT-11, INIT-12, META-10: a process is killed at each
// fault point of each operation, of Close, of what is written behind, and of opening what such a
// process left. The next one finds everything that was there before, the operation's effect whole or
// not at all, and nothing that cannot be pruned.
func TestKilledAtEveryPoint(t *testing.T) {
	if job, ok := crash.Asked(t); ok {
		crashChild(t, job)
		return
	}
	m := newMatrix(t)
	for _, backend := range slices.Sorted(maps.Keys(crashBackends)) {
		t.Run(backend, func(t *testing.T) { // returns when what is parallel in it has
			if backend == "overlay" {
				need.Overlay(t)
			}
			for name, op := range operations {
				if op.blob && !m.full && m.one(name) != backend {
					continue
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					m.operation(t, backend, name)
				})
			}
			t.Run(jobCreate, func(t *testing.T) {
				t.Parallel()
				m.create(t, backend)
			})
		})
	}
	m.report(t)
}

// crashReport is what a child tells its parent of the scene, before the operation.
type crashReport struct {
	Names map[string]names
	Rows  map[string]map[string]string
	// Trace are the points of the operation; only a child that lived through it tells them.
	Trace testutil.Trace
}

// crashChild is the process that is killed.
func crashChild(t *testing.T, job crash.Job) {
	opts := append([]testutil.Option{testutil.InDir(job.Dir)}, crashBackends[job.Args[0]]...)
	if job.Name == jobOpen || job.Name == jobCreate {
		faults := testutil.NewFaults()
		job.Arm(faults)
		var trace testutil.Trace
		faults.OnPoint(func(p testutil.Point) { trace = append(trace, p) })
		testutil.New(t, append(opts, testutil.WithFaults(faults))...)
		job.Say(t, crashReport{Trace: trace})
		job.Die(t)
		return
	}
	op, ok := operations[job.Name]
	require.True(t, ok)
	env := testutil.New(t, opts...)
	s := newScene(t, env, op)
	if env.Manager == nil { // the scene is a cache that is closed, or was dropped
		job.Say(t, crashReport{Names: s.names, Rows: closedRows(t, env.Dir)})
	} else {
		job.Say(t, crashReport{Names: s.names, Rows: rowsOf(t, env)})
	}
	job.Arm(env.Faults)
	require.NoError(t, op.do(ctx, s))
	job.Say(t, crashReport{Trace: env.Faults.Trace()})
	job.Die(t)
}

// rowsOf reads what the rows hold.
func rowsOf(t testing.TB, env *testutil.Env) (rows map[string]map[string]string) {
	t.Helper()
	env.Faults.Quietly(func() { rows = readRows(t, env.Opt.MetadataStore) })
	return rows
}

// closedRows reads the rows of a cache that is closed.
func closedRows(t testing.TB, dir string) map[string]map[string]string {
	t.Helper()
	store, err := metadata.NewStore(filepath.Join(dir, "metadata_v2.db"))
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	return readRows(t, store)
}

// readRows reads a store by record and key. An external blob is under "ext:" and its key.
func readRows(t testing.TB, store *metadata.Store) map[string]map[string]string {
	t.Helper()
	rows := map[string]map[string]string{}
	items, err := store.All()
	require.NoError(t, err)
	for _, item := range items {
		row := map[string]string{}
		for _, key := range item.Keys() {
			if v := item.Get(key); v != nil {
				row[key] = fmt.Sprintf("%s %s", v.Value, v.Index)
			}
		}
		for _, key := range []string{"x", "filelist"} {
			if data, err := item.GetExternal(key); err == nil {
				row["ext:"+key] = string(data)
			}
		}
		rows[item.ID()] = row
	}
	return rows
}

// stateOf says what a record is, by its rows.
func stateOf(rows map[string]map[string]string, n names, uses bool) string {
	state, row := "gone", rows[n.Mut]
	switch {
	case row != nil:
		state = "active"
		for id, half := range rows {
			if strings.HasPrefix(half["cache.equalMutable"], strconv.Quote(n.Mut)) {
				state, row = "sealed", rows[id]
			}
		}
	case rows[n.Imm] != nil:
		state, row = "ready", rows[n.Imm]
		if strings.HasPrefix(row["cache.blobonly"], "true") {
			state = "lazy"
		}
		if isRecipe(row) {
			state = "recipe" // whether there is a tree only the snapshotter knows
		}
	}
	if n := strings.Count(row["cache.imageRefs"], "/"); n > 0 { // one in each name
		state += fmt.Sprint(" images=", n)
	}
	if row["ext:filelist"] != "" {
		state += " listed"
	}
	if row["k"] != "" {
		state += " k=" + strings.Trim(strings.Fields(row["k"])[0], `"`)
	}
	if row["ext:x"] != "" {
		state += " x=" + row["ext:x"]
	}
	if n := strings.TrimSpace(row["cache.usageCount"]); uses && n != "" {
		state += " uses=" + n
	}
	return state
}

// volatile are the keys that may differ from the scene's: what is written behind, and what is part of the state.
var volatile = map[string]bool{
	"cache.lastUsedAt": true, "cache.usageCount": true, "snapshot.size": true,
	"cache.equalMutable": true, "k": true, "ext:x": true, "layercache.unsynced": true,
	"cache.blobonly": true, "cache.imageRefs": true, "ext:filelist": true,
	"cache.description": true, // says which image a layer was pulled for
}

// differences says what became of the scene, in the words of operation.states. It fails the test if a row
// that is still there holds anything else.
func differences(t *testing.T, rep crashReport, rows map[string]map[string]string, uses bool) string {
	t.Helper()
	known := map[string]bool{}
	var diffs []string
	for _, name := range slices.Sorted(maps.Keys(rep.Names)) {
		n := rep.Names[name]
		known[n.Mut], known[n.Imm] = true, true
		was, is := stateOf(rep.Rows, n, uses), stateOf(rows, n, uses)
		made := exportState(rep.Rows[n.Imm], rows[n.Imm])
		if was != is || made != "" {
			diffs = append(diffs, name+" "+is+made)
		}
		for _, id := range []string{n.Mut, n.Imm} {
			if rep.Rows[id] == nil || rows[id] == nil {
				continue
			}
			before, after := steady(rep.Rows[id]), steady(rows[id])
			for _, key := range madeByExport {
				if made != "" && before[key] == "" {
					delete(after, key)
				}
			}
			require.Equal(t, before, after, "row %s of %s", id, name)
		}
	}
	for id, row := range rows {
		// A half that the operation made is told by its mutable one, which is known.
		if half := strings.Fields(row["cache.equalMutable"]); !known[id] && (len(half) == 0 || !known[strings.Trim(half[0], `"`)]) {
			n := names{Mut: id}
			if row["cache.blob"] != "" || isRecipe(row) {
				n = names{Imm: id}
			}
			diffs = append(diffs, "new "+stateOf(rows, n, false))
		}
	}
	return strings.Join(diffs, ", ")
}

func steady(row map[string]string) map[string]string {
	row = maps.Clone(row)
	maps.DeleteFunc(row, func(key, _ string) bool { return volatile[key] })
	return row
}

// requireContent reads the file of each record of the scene that is there, and of each layer that came from a blob.
func requireContent(t *testing.T, env *testutil.Env, rep crashReport, rows map[string]map[string]string) {
	t.Helper()
	blobs := newSceneBlobs(t)
	for name, n := range rep.Names {
		state, _, _ := strings.Cut(stateOf(rows, n, false), " ")
		_, pulled := blobs.fileOf(rows[n.Imm]["cache.blob"])
		switch {
		case pulled, state == "recipe": // below
		case state == "gone":
			for _, id := range []string{n.Mut, n.Imm} {
				_, err := env.Manager.Get(ctx, id, nil)
				require.Error(t, err, "%s is gone", name)
			}
		case state == "active":
			ref, err := env.Manager.GetMutable(ctx, n.Mut)
			require.NoError(t, err, name)
			testutil.WithMount(t, ref, false, func(dir string) { requireText(t, dir, name) })
			release(t, ref)
		default:
			id := n.Imm
			if state == "sealed" {
				id = n.Mut // leads to the half, whatever its name
			}
			ref, err := env.Manager.Get(ctx, id, nil)
			require.NoError(t, err, name)
			testutil.WithMount(t, ref, true, func(dir string) { requireText(t, dir, name) })
			release(t, ref)
		}
	}
	requireRecipes(t, env, rep, rows)
	for id, row := range rows {
		name, pulled := blobs.fileOf(row["cache.blob"])
		if !pulled {
			continue
		}
		ref, err := env.Manager.Get(ctx, id, nil, blobs.through(env.Faults))
		require.NoError(t, err, name)
		testutil.WithMount(t, ref, true, func(dir string) { requireText(t, dir, name) })
		release(t, ref)
	}
}

func requireText(t *testing.T, dir, name string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	require.Equal(t, name, string(got))
}

// requireNothingLeft prunes everything and looks for what that cannot reach.
func requireNothingLeft(t *testing.T, env *testutil.Env) {
	t.Helper()
	prune(t, env, usage.PruneInfo{All: true})
	require.Empty(t, rowsOf(t, env), "rows")
	require.Equal(t, cache.Stats{}, env.Manager.Stats())
	require.Empty(t, leaseIDs(t, env), "leases")
	require.Empty(t, snapshotNames(t, env), "snapshots")
	require.Empty(t, blobsOf(t, env), "blobs")
	requireNoWork(t, env)
	if !env.Local() {
		return // others have trees there, too
	}
	dirs, err := os.ReadDir(filepath.Join(env.Dir, "snapshots", "snapshots"))
	require.NoError(t, err)
	require.Empty(t, dirs, "directories of snapshots")
}

// crashSeed is LAYERCACHE_CRASH_SEED, or made of the time.
func crashSeed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv(crashSeedEnv)
	if text == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, crashSeedEnv)
	return seed
}

// matrix runs children and counts.
type matrix struct {
	full, every bool
	seed        uint64
	tally
}

func newMatrix(t *testing.T) *matrix {
	t.Helper()
	asked := os.Getenv(crashEnv)
	m := &matrix{full: asked == "full" || asked == "every", every: asked == "every", seed: crashSeed(t)}
	if !m.full {
		t.Logf("points chosen by %s=%d; %s=full takes all", crashSeedEnv, m.seed, crashEnv)
	}
	return m
}

// points are those to try of an operation that passes these.
func (m *matrix) points(backend, name string, trace testutil.Trace) []int {
	total := len(trace)
	all := make([]int, total)
	for i := range all {
		all[i] = i + 1
	}
	switch {
	case m.full && operations[name].many && !m.every:
		choose := m.random(backend, name, 0)
		return slices.DeleteFunc(all, func(n int) bool { return perRecord[trace[n-1].Op] && choose.IntN(manyThinned) > 0 })
	case m.full:
		return all
	}
	m.random(backend, name, 0).Shuffle(total, func(i, k int) { all[i], all[k] = all[k], all[i] })
	chosen := all[:min(total, crashSample)]
	slices.Sort(chosen)
	return chosen
}

// random depends on nothing but the seed and what it is for.
func (m *matrix) random(backend, name string, point int) *rand.Rand {
	var salt uint64
	for _, b := range []byte(backend + "/" + name) {
		salt = salt*31 + uint64(b)
	}
	return rand.New(rand.NewPCG(m.seed, salt*1000+uint64(point))) //nolint:gosec // a choice of tests
}

// one chooses a backend for an operation, or "" for none this time. Those on layers from blobs take long, and there
// are many: all together are to take a quarter of the time of the others. One on many records is always tried.
func (m *matrix) one(name string) string {
	all := slices.Sorted(maps.Keys(crashBackends))
	if !operations[name].many {
		all = append(all, "", "")
	}
	return all[m.random("", name, 0).IntN(len(all))]
}

// operation kills processes at the points of one operation.
func (m *matrix) operation(t *testing.T, backend, name string) {
	var trace testutil.Trace
	reached, seen := 0, map[int]bool{}
	op := operations[name]
	run := func(point int, twice bool) {
		label := strconv.Itoa(point)
		switch {
		case point == 0:
			label = "returned"
		case twice:
			label += " and again"
		}
		t.Run(label, func(t *testing.T) {
			defer m.count(t, backend, name)
			state, all := m.kill(t, backend, name, point, twice)
			if point > 0 && inNativeGap(backend, trace[point-1]) && state == "pair gone" {
				m.countGap()
				return
			}
			at := slices.Index(op.states, state)
			require.GreaterOrEqual(t, at, 0, "state %q is none that may be left: %q", state, op.states)
			if all != nil { // it came to its end
				require.Equal(t, len(op.states)-1, at, "the operation returned, and left %q", state)
				if point == 0 {
					trace = all
				}
				return
			}
			if op.concurrent {
				return // what comes first varies
			}
			require.GreaterOrEqual(t, at, reached, "state %q was passed at an earlier point already", state)
			reached = at
			seen[at] = true
		})
	}
	run(0, false)
	for _, n := range m.points(backend, name, trace) {
		run(n, false)
		if m.full || m.random(backend, name, n).IntN(2) == 0 {
			run(n, true)
		}
	}
	m.note(backend, name, len(trace))
	if m.full && !t.Failed() && !op.concurrent {
		require.Len(t, seen, len(op.states), "states that no point leaves: have %v of %q", seen, op.states)
	}
}

// inNativeGap tells whether a process died between the commits of the native snapshotter's database and of
// containerd's, which together finalize a record. containerd has no way to tell what became of
// the snapshot, and it counts as lost (docs/adr/0012). On overlayfs the commit is taken back.
func inNativeGap(backend string, p testutil.Point) bool {
	return backend != "overlay" && p.Op == fault.OpSnapshotCommit && p.When == fault.After && strings.HasPrefix(p.Key, "buildkit/")
}

// kill has one child killed, and another one while it opens what that left if twice is set, and
// checks what a third process, this one, finds.
func (m *matrix) kill(t *testing.T, backend, name string, point int, twice bool) (state string, trace testutil.Trace) {
	t.Helper()
	dir := t.TempDir()
	said := crash.Run(t, crash.Job{Dir: dir, Name: name, Args: []string{backend}, Point: point})
	var rep, after crashReport
	require.NotEmpty(t, said)
	require.NoError(t, json.Unmarshal(said[0], &rep))
	if point == 0 || !operations[name].concurrent { // else there may be fewer points this time
		require.Equal(t, point == 0, len(said) == 2, "point %d was not reached, or the end was", point)
	}
	if len(said) == 2 {
		require.NoError(t, json.Unmarshal(said[1], &after))
		require.NotEmpty(t, after.Trace)
	}
	if twice {
		// One that is beyond the last point is killed when everything is open.
		at := 1 + m.random(backend, name, point).IntN(24)
		crash.Run(t, crash.Job{Dir: dir, Name: jobOpen, Args: []string{backend}, Point: at})
	}
	env := m.reopen(t, backend, dir, operations[name].lost)
	rows := rowsOf(t, env)
	state = differences(t, rep, rows, operations[name].uses)
	requireContent(t, env, rep, rows)
	requireExport(t, env, operations[name], rep, rows)
	requireNothingLeft(t, env)
	return state, after.Trace
}

// reopen opens what a dead process left. A snapshot that was lost before may still be.
func (m *matrix) reopen(t *testing.T, backend, dir string, lost bool) *testutil.Env {
	t.Helper()
	env := testutil.New(t, append([]testutil.Option{testutil.InDir(dir), testutil.Parallel()}, crashBackends[backend]...)...)
	problems := env.Problems(ctx)
	if lost {
		problems = slices.DeleteFunc(problems, func(p string) bool { return strings.HasPrefix(p, string(cache.FindingSnapshotMissing)) })
	}
	require.Empty(t, problems)
	return env
}

// create kills processes that open an empty directory.
func (m *matrix) create(t *testing.T, backend string) {
	var trace testutil.Trace
	run := func(point int) {
		t.Run(strconv.Itoa(point), func(t *testing.T) {
			defer m.count(t, backend, jobCreate)
			dir := t.TempDir()
			said := crash.Run(t, crash.Job{Dir: dir, Name: jobCreate, Args: []string{backend}, Point: point})
			if point == 0 {
				var rep crashReport
				require.Len(t, said, 1)
				require.NoError(t, json.Unmarshal(said[0], &rep))
				trace = rep.Trace
				require.NotEmpty(t, trace)
			}
			env := m.reopen(t, backend, dir, false)
			layer := finalized(t, env, nil, fileIn(t, "f", "text"))
			requireFile(t, layer, "f", "text")
			release(t, layer)
		})
	}
	run(0)
	for _, n := range m.points(backend, jobCreate, trace) {
		run(n)
	}
	m.note(backend, jobCreate, len(trace))
}
