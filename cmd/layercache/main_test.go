package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/layercache/cache"
	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is how a run of the program ended.
type result struct {
	stdout, stderr string
	code           int
}

func layercache(t testing.TB, tty console.Size, args ...string) result {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	var stdout, stderr bytes.Buffer
	code := command(t.Context(), args, &stdout, &stderr, tty)
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, left, "temporary files")
	return result{stdout.String(), stderr.String(), code}
}

func mustRun(t testing.TB, args ...string) string {
	t.Helper()
	r := layercache(t, nil, args...)
	require.Zero(t, r.code, "%s%s", r.stdout, r.stderr)
	require.Empty(t, r.stderr)
	return r.stdout
}

// untouched fails the test if fn changes anything in dir.
func untouched(t testing.TB, dir string, fn func()) {
	t.Helper()
	changed, err := tree.Changed(dir, fn)
	require.NoError(t, err)
	require.Empty(t, changed)
}

// made is a closed cache: two layers on a base, of which one is not finalized, an internal record, one known by its blob, a
// merge, an orphan, and a transfer that was broken off.
type made struct {
	dir                                      string
	base, top, sealed, internal, blob, merge string
	desc                                     ocispecs.Descriptor
}

func makeCache(t testing.TB, opts ...testutil.Option) *made {
	t.Helper()
	ctx := t.Context()
	env := testutil.New(t, opts...)
	layer := func(parent cache.ImmutableRef, n int, opts ...cache.RefOption) cache.ImmutableRef {
		return testutil.MakeLayer(t, env, parent, func(dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("f", n)), bytes.Repeat([]byte("x"), n), 0o644))
		}, append(opts, cache.WithDescription(fmt.Sprint("made of ", n)))...)
	}
	m := &made{dir: env.Dir}
	base := layer(nil, 20000)
	require.NoError(t, base.SetString("engine.key", "cache me", "engine:cache me"))
	top := layer(base, 40000)
	sealed := layer(base, 100, cache.CachePolicyRetain)
	internal := layer(nil, 10)
	require.NoError(t, internal.SetRecordType(usage.TypeInternal))
	data := []byte("not an archive, which nobody finds out before it is unpacked")
	m.desc = ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: int64(len(data)),
		Annotations: map[string]string{"containerd.io/uncompressed": digest.FromBytes(data).String()},
	}
	lease, err := env.Opt.LeaseManager.Create(ctx, leases.WithRandomID())
	require.NoError(t, err)
	require.NoError(t, content.WriteBlob(leases.WithLease(ctx, lease.ID), env.Opt.ContentStore, "blob", bytes.NewReader(data), m.desc))
	blob, err := env.Manager.GetByBlob(ctx, m.desc, nil, cache.WithDescription("a\tblob"), cache.WithImageRef("example.org/app:v1"))
	require.NoError(t, err)
	merge, err := env.Manager.Merge(ctx, []cache.ImmutableRef{top, internal}, nil, cache.WithDescription("merged"))
	require.NoError(t, err)
	for ref, id := range map[cache.ImmutableRef]*string{
		base: &m.base, top: &m.top, sealed: &m.sealed, internal: &m.internal, blob: &m.blob, merge: &m.merge,
	} {
		*id = ref.ID()
		if ref != sealed {
			require.NoError(t, ref.Finalize(ctx))
		}
		require.NoError(t, ref.Release(ctx))
	}
	require.NoError(t, env.Opt.LeaseManager.Delete(ctx, lease))
	w, err := env.Opt.ContentStore.Writer(ctx, content.WithRef("broken off"))
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 1000))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, content.WriteBlob(ctx, env.Opt.ContentStore, "orphan", strings.NewReader("orphan"),
		ocispecs.Descriptor{Digest: digest.FromString("orphan"), Size: 6}))
	require.NoError(t, env.Close())
	return m
}

// forEachSnapshotter runs a test on native, and on overlayfs where that works.
func forEachSnapshotter(t *testing.T, fn func(t *testing.T, m *made)) {
	t.Run(local.Native, func(t *testing.T) { fn(t, makeCache(t)) })
	t.Run(local.Overlayfs, func(t *testing.T) { fn(t, makeCache(t, testutil.Overlay())) })
}

// The commands that look tell what is there and change nothing. issue 7
func TestLooking(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, m *made) {
		untouched(t, m.dir, func() {
			testTable(t, m)
			testTree(t, m)
			testJSON(t, m)
			testShow(t, m)
			require.Equal(t, "ok\n", mustRun(t, "check", m.dir))
			require.JSONEq(t, `{"findings":[],"repaired":[]}`, mustRun(t, "check", "--json", m.dir))
		})
	})
}

func testTable(t *testing.T, m *made) {
	out := mustRun(t, "du", m.dir)
	lines := strings.Split(out, "\n")
	require.Regexp(t, `^ID +SIZE +TYPE +USES +LAST USED +STATE +DESCRIPTION$`, lines[0])
	require.Regexp(t, `^`+m.top+` +[0-9.]+ kB +regular +1 +[-0-9T:Z]+ +- +made of 40000$`, lines[1], "the largest first")
	require.Contains(t, out, `a\tblob`, "what others wrote cannot harm a terminal")
	require.Regexp(t, `(?m)^database +[0-9.]+ kB +`+regexp.QuoteMeta(filepath.Join(m.dir, "metadata_v2.db"))+`$`, out)
	require.Regexp(t, `(?m)^ingest +1\.0 kB +broken off$`, out)
	require.Regexp(t, `(?m)^orphan blob +6 B +`+digest.FromString("orphan").String()+`$`, out)
	require.Regexp(t, `(?m)^6 records: [0-9.]+ kB, reclaimable [0-9.]+ kB\nbeside them: [0-9.]+ MB\ntotal: [0-9.]+ MB\n\z`, out)
	require.Regexp(t, `(?m)^reserve +8.4 MB +`+regexp.QuoteMeta(filepath.Join(m.dir, "layercache.reserve"))+`$`, out)

	out = mustRun(t, "du", "--filter", "type==internal", "-filter", "description==merged", m.dir)
	require.Contains(t, out, m.internal)
	require.Contains(t, out, m.merge)
	require.Regexp(t, `(?m)^2 records: .*\n\z`, out)
	require.NotContains(t, out, "database")
	require.Contains(t, mustRun(t, "du", m.dir, "--unused-for", "1h"), "\n0 records: 0 B, reclaimable 0 B\n")
}

func testTree(t *testing.T, m *made) {
	out := mustRun(t, "du", "--tree", m.dir)
	require.Regexp(t, `(?m)^`+m.base+` `, out)
	require.Regexp(t, `(?m)^  `+m.top+` `, out)
	require.Regexp(t, `(?m)^    `+m.merge+` \(of 2\) `, out)
	require.Regexp(t, `(?m)^6 records: `, out)
	for _, id := range []string{m.base, m.top, m.internal, m.blob, m.merge} {
		require.Equal(t, 1, strings.Count(out, id), "each record is listed once")
	}
	// Without its parent it begins a tree of its own.
	require.Regexp(t, `(?m)^`+m.top+` `, mustRun(t, "du", "--tree", "--filter", "id=="+m.top, m.dir))
}

func testJSON(t *testing.T, m *made) {
	var r report
	require.NoError(t, json.Unmarshal([]byte(mustRun(t, "du", "--json", m.dir)), &r))
	require.Len(t, r.Records, 6)
	var sum, over int64
	for i, info := range r.Records {
		sum += info.Size
		if i > 0 {
			require.LessOrEqual(t, info.Size, r.Records[i-1].Size)
		}
	}
	for _, o := range r.Overhead {
		over += o.Size
	}
	require.Equal(t, totals{Records: 6, Size: sum, Reclaimable: sum, Overhead: over}, r.Totals)
	require.Positive(t, over)
}

func testShow(t *testing.T, m *made) {
	out := mustRun(t, "show", m.dir, m.base)
	for _, want := range []string{
		`id +` + m.base, `kind +base layer`, `state +ready`, `child +` + m.top, `snapshot +` + m.base,
		`value engine\.key +"cache me"`, `size +[0-9]+ \([0-9.]+ kB\)`, `type +regular`, `uses +[0-9]+`,
	} {
		require.Regexp(t, `(?m)^`+want+`$`, out)
	}
	out = mustRun(t, "show", m.dir, m.blob)
	for _, want := range []string{
		`blob +` + m.desc.Digest.String(), `media type +` + regexp.QuoteMeta(m.desc.MediaType), `blob is +local, not extracted`,
		`diff ID +` + m.desc.Digest.String(), `chain ID +sha256:[0-9a-f]+`, `image +example\.org/app:v1`, `state +lazy`,
	} {
		require.Regexp(t, `(?m)^`+want+`$`, out)
	}
	out = mustRun(t, "show", m.dir, m.sealed)
	require.Regexp(t, `(?m)^state +sealed$`, out)
	require.Regexp(t, `(?m)^committed half +`+m.sealed+`$`, out)
	require.Regexp(t, `(?m)^policy +retain$`, out)
	out = mustRun(t, "show", m.dir, m.merge)
	require.Regexp(t, `(?m)^parent +`+m.top+`\nparent +`+m.internal+`$`, out)
	var rec cache.RecordInfo
	require.NoError(t, json.Unmarshal([]byte(mustRun(t, "show", "--json", m.dir, m.blob)), &rec))
	require.Equal(t, m.desc.Digest, rec.Blob.Digest)
	require.Equal(t, m.desc.Size, rec.Size)

	r := layercache(t, nil, "show", m.dir, "nobody")
	require.Equal(t, console.ExitError, r.code)
	require.Contains(t, r.stderr, `"nobody"`)
	require.Empty(t, r.stdout)
}

// Findings are lines, and an exit code for scripts; so is a damaged database, which stays as it is. fault 30
func TestCheckFindings(t *testing.T) {
	m := makeCache(t)
	path := filepath.Join(m.dir, "metadata_v2.db")
	db, err := bolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("_index")).Put([]byte("stale::"+m.base), nil)
	}))
	require.NoError(t, db.Close())
	untouched(t, m.dir, func() {
		r := layercache(t, nil, "check", m.dir)
		require.Equal(t, console.ExitError, r.code)
		require.Regexp(t, `^index entry orphaned: .*stale.* \(repair: reindex\)\n\z`, r.stdout)
		require.Empty(t, r.stderr)
		r = layercache(t, nil, "check", "--json", m.dir)
		require.Equal(t, console.ExitError, r.code)
		var v verdict
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &v))
		require.Len(t, v.Findings, 1)
		require.Equal(t, cache.FindingIndexOrphaned, v.Findings[0].Kind)
		require.Equal(t, m.base, v.Findings[0].Record)
	})

	cleared, err := fault.ClearPages(path, "engine.key")
	require.NoError(t, err)
	require.NotZero(t, cleared)
	untouched(t, m.dir, func() {
		r := layercache(t, nil, "check", m.dir)
		require.Equal(t, console.ExitError, r.code)
		require.Contains(t, r.stdout, "damaged database: "+path+"\n")
		require.Contains(t, r.stderr, path+" is damaged")
		r = layercache(t, nil, "du", m.dir)
		require.Zero(t, r.code)
		require.Contains(t, r.stderr, path+" is damaged")
	})
}

// What a crash left is told and is no finding.
func TestCheckAfterCrash(t *testing.T) {
	dir := t.TempDir()
	c, err := local.Open(t.Context(), dir, local.Options{Snapshotter: local.Native})
	require.NoError(t, err)
	ref, err := c.New(t.Context(), nil, nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	untouched(t, dir, func() {
		require.Equal(t, "note: the next start repairs record "+ref.ID()+": broken\nok\n", mustRun(t, "check", dir))
		require.Contains(t, mustRun(t, "check", "--json", dir), `"reason": "broken"`)
	})
}

// What is wrong with the command line is told, with an exit code of its own; what is wrong with the directory is, too.
func TestErrors(t *testing.T) {
	m := makeCache(t)
	none := filepath.Join(t.TempDir(), "none")
	for _, tc := range []struct {
		code int
		says string
		args []string
	}{
		{console.ExitUsage, "a command is wanted", nil},
		{console.ExitUsage, `unknown command "dump"`, []string{"dump", m.dir}},
		{console.ExitUsage, "du wants DIR", []string{"du"}},
		{console.ExitUsage, "du wants DIR", []string{"du", m.dir, m.dir}},
		{console.ExitUsage, "show wants DIR ID", []string{"show", m.dir}},
		{console.ExitUsage, "-colour", []string{"du", m.dir, "-colour"}},
		{console.ExitUsage, "exclude each other", []string{"du", "-tree", "-json", m.dir}},
		{console.ExitUsage, "colour", []string{"du", "-filter", "colour==red", m.dir}},
		{console.ExitUsage, "colour", []string{"prune", "-filter", "colour==red", m.dir}},
		{console.ExitUsage, "not a size", []string{"prune", "-max-used-space", "lots", m.dir}},
		{console.ExitUsage, "negative", []string{"prune", "-min-free-space", "-1", m.dir}},
		{console.ExitUsage, "negative", []string{"prune", "-keep-duration", "-1h", m.dir}},
		{console.ExitUsage, "-why is for -dry-run", []string{"prune", "-why", m.dir}},
		{console.ExitUsage, "KeepBytes", []string{"prune", "-keep-bytes", "1", "-reserved-space", "2", m.dir}},
		{console.ExitError, "no cache directory", []string{"du", none}},
		{console.ExitError, "no cache directory", []string{"prune", "-dry-run", none}},
		{console.ExitError, "no cache directory", []string{"check", "--", none}},
		{console.ExitError, "no cache directory", []string{"prune", none}},
	} {
		r := layercache(t, nil, tc.args...)
		require.Equal(t, tc.code, r.code, "%q: %s", tc.args, r.stderr)
		require.Contains(t, r.stderr, tc.says, "%q", tc.args)
		require.Regexp(t, `(?m)^layercache: `, r.stderr)
		require.NoDirExists(t, none)
	}
	c, err := local.Open(t.Context(), m.dir, local.Options{})
	require.NoError(t, err)
	for _, args := range [][]string{{"du", m.dir}, {"show", m.dir, m.base}, {"check", m.dir}, {"prune", m.dir}, {"prune", "-dry-run", m.dir}} {
		r := layercache(t, nil, args...)
		require.Equal(t, console.ExitError, r.code)
		require.Contains(t, r.stderr, "in use", "fault 33")
		require.Empty(t, r.stdout)
	}
	require.NoError(t, c.Close())
}

// Help goes to standard output, since somebody asked for it.
func TestHelp(t *testing.T) {
	require.Contains(t, mustRun(t, "-h"), "usage: layercache COMMAND DIR")
	require.Contains(t, mustRun(t, "prune", "-h"), "-max-used-space N")
	require.Contains(t, mustRun(t, "show", "--help"), "usage: layercache show [FLAGS] DIR ID\n")
}
