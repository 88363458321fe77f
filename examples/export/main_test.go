package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/usage"
)

// Without -record the records are listed, in the order in which they were made.
func TestList(t *testing.T) {
	b := build(t)
	r := mustExport(t, "-dir", b.dir)
	require.Regexp(t, `(?m)\A(\S+  layer     +[0-9.]+ k?B  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  made by a test\n){3}\z`, r.stdout)
	lines := strings.Split(r.stdout, "\n")
	require.True(t, strings.HasPrefix(lines[2], b.top+" "), r.stdout)
	require.Empty(t, r.stderr)

	// Any of them is an image.
	first, _, _ := strings.Cut(lines[0], " ")
	dir := filepath.Join(t.TempDir(), "layout")
	r = mustExport(t, "-dir", b.dir, "-record", first, "-o", dir)
	require.Contains(t, r.stdout, "1 layers")
	require.Len(t, readLayout(t, dir).manifest.Layers, 1)
}

// What is exported is a ref like any other: afterwards nothing is in use, and the blobs stay for the next time.
func TestCacheAfterwards(t *testing.T) { // spec BLOB-2
	b := build(t)
	mustExport(t, "-dir", b.dir, "-record", b.top, "-o", filepath.Join(t.TempDir(), "layout"))
	b.with(t, func(c *local.Cache) {
		findings, err := c.Check(t.Context())
		require.NoError(t, err)
		require.Empty(t, findings)
		infos, err := c.DiskUsage(t.Context(), usage.DiskUsageInfo{Filter: []string{"inuse"}})
		require.NoError(t, err)
		require.Empty(t, infos)
		ingests, err := c.Parts.ContentStore.ListStatuses(t.Context())
		require.NoError(t, err)
		require.Empty(t, ingests)
	})
}

// The progress of an export: the record is packed, then each layer is written.
func TestPlainProgress(t *testing.T) {
	b := build(t)
	r := mustExport(t, "-dir", b.dir, "-record", b.top, "-o", filepath.Join(t.TempDir(), "layout"))
	require.Regexp(t, `\Arecord `+b.top+`  packing\nrecord `+b.top+`  packed\n`, r.stderr)
	for _, n := range []string{"1", "2", "3"} {
		require.Regexp(t, `(?m)^layer `+n+`/3  [0-9a-f]{12}  writing  0 B of [0-9.]+ k?B$`, r.stderr)
		require.Regexp(t, `(?m)^layer `+n+`/3  [0-9a-f]{12}  written  [0-9.]+ k?B$`, r.stderr)
	}
}

// leftovers are what a failed export left beside the place where the layout should be.
func leftovers(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A blob that is damaged in the cache makes no layout, and nothing is left of the attempt.
func TestDamagedBlob(t *testing.T) { // fault 11
	b := build(t)
	first := filepath.Join(t.TempDir(), "layout")
	mustExport(t, "-dir", b.dir, "-record", b.top, "-o", first)
	victim := readLayout(t, first).manifest.Layers[1].Digest
	path := blobPath(filepath.Join(b.dir, "content"), victim)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[len(data)/2] ^= 1
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, data, 0o600))

	dir := filepath.Join(t.TempDir(), "layout")
	r := export(t.Context(), "-dir", b.dir, "-record", b.top, "-o", dir)
	require.Equal(t, console.ExitError, r.code)
	require.Contains(t, r.stderr, "export: write blob "+victim.String()+": the cache's blob is damaged")
	require.Regexp(t, `(?m)^layer 2/3  [0-9a-f]{12}  failed: `, r.stderr)
	require.Empty(t, leftovers(t, dir))
}

// A layer whose blob nobody fetched cannot be exported, and the error says which.
func TestLazyLayer(t *testing.T) { // spec RMT-3
	dir := filepath.Join(t.TempDir(), "cache")
	c, err := local.Open(t.Context(), dir, local.Options{})
	require.NoError(t, err)
	blob := digest.FromString("elsewhere")
	ref, err := c.GetByBlob(t.Context(), ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: blob, Size: 9,
		Annotations: map[string]string{labels.LabelUncompressed: digest.FromString("plain").String()},
	}, nil, cache.DescHandlers{blob: {}})
	require.NoError(t, err)
	id := ref.ID()
	require.NoError(t, ref.Release(t.Context()))
	require.NoError(t, c.Close())

	out := filepath.Join(t.TempDir(), "layout")
	r := export(t.Context(), "-dir", dir, "-record", id, "-o", out)
	require.Equal(t, console.ExitError, r.code)
	require.Contains(t, r.stderr, blob.String())
	require.Empty(t, leftovers(t, out))
}

// An export that is cancelled leaves neither a layout nor a part of one.
func TestCancelled(t *testing.T) { // fault 13
	b := build(t)
	dir := filepath.Join(t.TempDir(), "layout")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := export(ctx, "-dir", b.dir, "-record", b.top, "-o", dir)
	require.Equal(t, console.ExitInterrupt, r.code)
	require.Regexp(t, `(?m)^export: interrupted: `, r.stderr)
	require.Empty(t, leftovers(t, dir))
	mustExport(t, "-dir", b.dir, "-record", b.top, "-o", dir)
	b.requireTree(t, readLayout(t, dir).manifest, readLayout(t, dir).config, readLayout(t, dir))
}

func TestCommandLine(t *testing.T) {
	b := build(t)
	used := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(used, "file"), nil, 0o600))
	out := filepath.Join(t.TempDir(), "out")
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{nil, console.ExitUsage, "-dir is wanted"},
		{[]string{"-dir", b.dir, "more"}, console.ExitUsage, `unexpected argument "more"`},
		{[]string{"-dir", b.dir, "-o", out}, console.ExitUsage, "-record is wanted"},
		{[]string{"-dir", b.dir, "-push", "localhost/app"}, console.ExitUsage, "-record is wanted"},
		{[]string{"-dir", b.dir, "-record", b.top}, console.ExitUsage, "-o or -push is wanted"},
		{[]string{"-dir", b.dir, "-record", b.top, "-o", out, "-push", "localhost/app"}, console.ExitUsage, "not both"},
		{[]string{"-dir", b.dir, "-record", b.top, "-o", out, "-compression", "brotli"}, console.ExitUsage, `"brotli"`},
		{[]string{"-dir", b.dir, "-record", b.top, "-o", out, "-compression", "zstd", "-level", "99"}, console.ExitUsage, "99"},
		{[]string{"-dir", b.dir, "-record", b.top, "-o", out, "-platform", "a/b/c/d/e"}, console.ExitUsage, `platform "a/b/c/d/e"`},
		{[]string{"-no-such-flag"}, console.ExitUsage, "usage: export"},
		{[]string{"-h"}, 0, "usage: export"},
		{[]string{"-dir", filepath.Join(used, "none")}, console.ExitError, "no such file"},
		{[]string{"-dir", filepath.Join(used, "file")}, console.ExitError, "not a directory"},
		{[]string{"-dir", b.dir, "-record", "no\x1b[2Jsuch", "-o", out}, console.ExitError, "not found"},
		{[]string{"-dir", b.dir, "-record", b.top, "-o", used}, console.ExitError, "is not empty"},
		{[]string{"-dir", b.dir, "-record", b.top, "-push", "UPPER case"}, console.ExitError, "not the name of an image"},
	} {
		r := export(t.Context(), tc.args...)
		require.Equal(t, tc.code, r.code, "%q: %s", tc.args, r.stderr)
		require.Contains(t, r.stderr, tc.want, "%q", tc.args)
		require.NotContains(t, r.stderr, "\x1b")
		require.Empty(t, r.stdout, "%q", tc.args)
	}
	require.NoDirExists(t, filepath.Join(used, "none"), "a mistyped directory does not become a cache")
	require.Empty(t, leftovers(t, out))
}

// -level reaches the compressor: a better effort is a smaller blob.
func TestLevel(t *testing.T) { // spec COMP-1
	size := func(level string) int64 {
		b := build(t)
		dir := filepath.Join(t.TempDir(), "layout")
		mustExport(t, "-dir", b.dir, "-record", b.top, "-compression", "gzip", "-level", level, "-o", dir)
		return readLayout(t, dir).manifest.Layers[0].Size
	}
	require.Less(t, size("9"), size("0"))
}

// limited is a pipe whose reader goes away after some bytes.
type limited struct{ room int }

func (l *limited) Write(p []byte) (int, error) {
	if l.room -= len(p); l.room < 0 {
		return 0, errors.New("broken pipe")
	}
	return len(p), nil
}

// Output that cannot be written is an error of the run.
func TestBrokenPipe(t *testing.T) {
	b := build(t)
	var stderr strings.Builder
	code := program.Command(t.Context(), []string{"-dir", b.dir}, &limited{20}, &stderr, nil)
	require.Equal(t, console.ExitError, code)
	require.Equal(t, "export: broken pipe\n", stderr.String())
}

// The documents hold no more than they should: what is between the cache and the program stays there.
func TestDocuments(t *testing.T) { // spec DESC-4, DESC-5
	layer := ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: digest.FromString("blob"), Size: 4,
		Annotations: map[string]string{
			labels.LabelUncompressed: digest.FromString("plain").String(), annotationCreatedAt: "2024-02-03T04:05:06.000000007+01:00",
			labels.LabelDistributionSource + ".example.org": "library/app", annotationTOC: "sha256:x", "org.example": "kept",
		},
	}
	other := layer
	other.Annotations = map[string]string{labels.LabelUncompressed: digest.FromString("plain").String(), annotationCreatedAt: "2024-01-01T00:00:00Z"}
	platform := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	times := []time.Time{time.Unix(7, 9).UTC(), time.Unix(5, 0).UTC()}
	img, err := newImage([]ocispecs.Descriptor{layer, other}, times, platform)
	require.NoError(t, err)
	require.Regexp(t, regexp.QuoteMeta(`"annotations":{"containerd.io/snapshot/stargz/toc.digest":"sha256:x","org.example":"kept"}`), string(img.manifestText))
	require.Equal(t, 1, strings.Count(string(img.manifestText), "annotations"))
	require.Contains(t, string(img.configText), `{"created":"1970-01-01T00:00:07.000000009Z","architecture":"amd64"`)
	again, err := newImage([]ocispecs.Descriptor{layer, other}, times, platform)
	require.NoError(t, err)
	require.Equal(t, img, again)
	delete(layer.Annotations, labels.LabelUncompressed)
	_, err = newImage([]ocispecs.Descriptor{other, layer}, times, platform)
	require.ErrorContains(t, err, "layer 2, "+layer.Digest.String()+": its diff ID is not known")
}
