package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// childEnv makes the test binary run the program itself.
const childEnv = "LAYERCACHE_PULL_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// result is how a run of the program ended.
type result struct {
	stdout, stderr string
	code           int
}

// pullArgs runs the program in this process, for the test platform.
func pullArgs(t testing.TB, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := program.Command(t.Context(), append([]string{"-platform", "linux/amd64"}, args...), &stdout, &stderr, nil)
	return result{stdout.String(), stderr.String(), code}
}

func mustPull(t testing.TB, args ...string) result {
	t.Helper()
	r := pullArgs(t, args...)
	require.Zero(t, r.code, "%s%s", r.stdout, r.stderr)
	return r
}

// requireImage checks the cache in dir, and that the image in it, without being fetched from anywhere, is the tree.
func requireImage(t testing.TB, dir string, made *testImage, want ...tree.Entry) {
	t.Helper()
	img, err := findImage(t.Context(), memory{made, []ocispecs.Descriptor{made.manifest}}, testPlatform)
	require.NoError(t, err)
	c, err := local.Open(t.Context(), dir, local.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	var layers cache.RefList
	defer func() { require.NoError(t, layers.Release(context.Background())) }()
	var parent cache.ImmutableRef
	for _, desc := range img.layers {
		ref, err := c.GetByBlob(t.Context(), desc, parent)
		require.NoError(t, err)
		layers, parent = append(layers, ref), ref
	}
	testutil.WithMount(t, parent, true, func(root string) { testutil.RequireTree(t, root, want...) })
	findings, err := c.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, findings)
	require.Len(t, layers, c.Stats().Records)
}

// hideLayers takes the layers' blobs out of a layout and returns a function that puts them back.
func hideLayers(t testing.TB, layout string, img *testImage) (show func()) {
	t.Helper()
	for _, desc := range img.distinct() {
		require.NoError(t, os.Rename(blobPath(layout, desc.Digest), blobPath(layout, desc.Digest)+".hidden"))
	}
	return func() {
		for _, desc := range img.distinct() {
			require.NoError(t, os.Rename(blobPath(layout, desc.Digest)+".hidden", blobPath(layout, desc.Digest)))
		}
	}
}

// stable replaces what differs from run to run and machine to machine.
func stable(out, dir string) string {
	out = strings.ReplaceAll(out, dir, "CACHE")
	out = regexp.MustCompile(`(?m)^cache  CACHE \(.*\)$`).ReplaceAllString(out, "cache  CACHE")
	return regexp.MustCompile(`(?m)^cache  (\d+) records, .*$`).ReplaceAllString(out, "cache  $1 records")
}

// head is what is said of an image before anything is fetched.
func head(name string, img *testImage, state string, lazy int) string {
	var b strings.Builder
	var total int64
	for _, desc := range img.layers {
		total += desc.Size
	}
	fmt.Fprintf(&b, "cache  CACHE\nimage  %s\n       %s, linux/amd64, %d layers, %s\n", name, img.manifest.Digest, len(img.layers), console.Bytes(total))
	for i, desc := range img.layers {
		compression := map[string]string{ocispecs.MediaTypeImageLayer: "tar", ocispecs.MediaTypeImageLayerGzip: "gzip", ocispecs.MediaTypeImageLayerZstd: "zstd"}
		fmt.Fprintf(&b, "layer  %d/%d  %s  %s  %s  %s\n", i+1, len(img.layers), console.Short(desc.Digest), state, console.Bytes(desc.Size), compression[desc.MediaType])
	}
	fmt.Fprintf(&b, "lazy   %d of %d layers have to be fetched when their files are wanted\n", lazy, len(img.layers))
	return b.String()
}

const standardListing = `drwxr-xr-x             0  bin
-rwxr-xr-x            10  bin/alias
Lrwxrwxrwx             4  bin/sh -> tool
-rwxr-xr-x            10  bin/tool
drwxr-xr-x             0  etc
-rw-r--r--            10  etc/hosts
-rw-r--r--            10  etc/names
-rw-r--r--             5  etc/passwd
-rw-r--r--            21  etc/stamp
drwxr-xr-x             0  old
-rw-r--r--             1  old/b
drwxr-xr-x             0  opaque
-rw-r--r--             4  opaque/above
`

// Without -extract no layer is touched: it works where they are not even there. With it they are fetched and unpacked once,
// and from then on not needed any more.
func TestLazyThenExtract(t *testing.T) { // spec MGR-17, MGR-23, EXT-1; scenarios S-6, S-25
	made := makeImage(t, standardLayers()...)
	layout, dir := made.writeLayout(t), filepath.Join(t.TempDir(), "cache")
	show := hideLayers(t, layout, made)
	r := mustPull(t, "-cache", dir, layout)
	require.Equal(t, head(layout, made, "lazy", 5)+"done   0 blobs fetched (0 B), 0 extracted\ncache  5 records\n", stable(r.stdout, dir))
	require.Empty(t, r.stderr)

	r = pullArgs(t, "-cache", dir, "-extract", layout)
	require.Equal(t, console.ExitError, r.code)
	require.Regexp(t, `(?m)^pull: .*sha256:[0-9a-f]{64}.* is missing`, r.stderr)

	show()
	r = mustPull(t, "-cache", dir, "-extract", "-list", layout+":v1")
	var total int64
	for _, desc := range made.distinct() {
		total += desc.Size
	}
	require.Equal(t, head(layout+":v1", made, "lazy", 5)+standardListing+
		fmt.Sprintf("done   4 blobs fetched (%s), 4 extracted\ncache  5 records\n", console.Bytes(total)), stable(r.stdout, dir))
	for i, desc := range made.layers {
		label := fmt.Sprintf("layer %d/5  %s", i+1, console.Short(desc.Digest))
		if i == 2 || i == 4 {
			label = "layer 3,5/5  " + console.Short(desc.Digest)
		}
		size := console.Bytes(desc.Size)
		require.Regexp(t, fmt.Sprintf(`(?ms)^%[1]s  pulling  0 B of %[2]s$.*^%[1]s  pulled  %[2]s$.*^%[1]s  extracting  %[2]s$.*^%[1]s  extracted  %[2]s$`, label, size), r.stderr)
	}

	show = hideLayers(t, layout, made)
	defer show()
	r = mustPull(t, "-cache", dir, "-extract", "-list", layout)
	require.Equal(t, head(layout, made, "here", 0)+standardListing+"done   0 blobs fetched (0 B), 0 extracted\ncache  5 records\n", stable(r.stdout, dir))
	require.Empty(t, r.stderr)
	requireImage(t, dir, made, standardTree()...)
}

// -list alone fetches the archives and unpacks nothing.
func TestListArchives(t *testing.T) { // spec REF-20
	made := makeImage(t, standardLayers()...)
	layout, dir := made.writeLayout(t), filepath.Join(t.TempDir(), "cache")
	r := mustPull(t, "-cache", dir, "-list", layout)
	listing := "1/5  bin\n1/5  bin/tool\n1/5  etc\n1/5  etc/passwd\n1/5  etc/shadow\n1/5  old\n1/5  old/a\n1/5  old/b\n1/5  opaque\n1/5  opaque/below\n" +
		"2/5  bin\n2/5  bin/alias\n2/5  bin/sh\n2/5  etc\n2/5  etc/hosts\n2/5  etc/names\n3/5  etc\n3/5  etc/stamp\n" +
		"4/5  etc/.wh.shadow\n4/5  old/.wh.a\n4/5  opaque\n4/5  opaque/.wh..wh..opq\n4/5  opaque/above\n5/5  etc\n5/5  etc/stamp\n"
	out := stable(r.stdout, dir)
	require.Contains(t, out, "wanted\n"+listing+"done   4 blobs fetched")
	require.Contains(t, out, " 0 extracted\n")
	require.NotContains(t, r.stderr, "extract")
	c, err := local.Open(t.Context(), dir, local.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	require.Equal(t, 5, c.Stats().Records)
	layers, err := os.ReadDir(filepath.Join(dir, "snapshots", "snapshots"))
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	require.Empty(t, layers)
}

// Of a registry, too, only what is needed is read, each blob once.
func TestRegistry(t *testing.T) { // spec PULL-1, PULL-2; fault 6
	made := makeImage(t, standardLayers()...)
	reg, dir := serve(t, made), filepath.Join(t.TempDir(), "cache")
	r := mustPull(t, "-cache", dir, reg.ref)
	require.Equal(t, head(reg.ref, made, "lazy", 5)+"done   0 blobs fetched (0 B), 0 extracted\ncache  5 records\n", stable(r.stdout, dir))
	require.Empty(t, reg.takeGets())

	mustPull(t, "-cache", dir, "-extract", reg.ref)
	var want []string
	for _, desc := range made.distinct() {
		want = append(want, desc.Digest.String())
	}
	require.ElementsMatch(t, want, reg.takeGets())
	requireImage(t, dir, made, standardTree()...)

	r = mustPull(t, "-cache", dir, "-extract", "-list", reg.ref)
	require.Empty(t, reg.takeGets())
	require.Contains(t, r.stdout, standardListing)

	r = pullArgs(t, "-cache", dir, strings.Replace(reg.ref, ":v1", ":v2", 1))
	require.Equal(t, console.ExitError, r.code)
	require.Contains(t, r.stderr, "app:v2: not found")
}

// A registry that breaks off, lies or refuses costs the run, which says what it was about; the next one is not affected.
func TestBadRegistry(t *testing.T) { // faults 9, 11
	made := makeImage(t, standardLayers()...)
	reg := serve(t, made)
	bad := made.layers[1].Digest
	for name, answer := range map[string]http.HandlerFunc{
		"refuses": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "\x1b[2Jno", http.StatusForbidden) },
		"lost":    func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"lies": func(w http.ResponseWriter, _ *http.Request) {
			_, err := w.Write(bytes.Repeat([]byte("x"), int(made.layers[1].Size)))
			if err != nil {
				t.Error(err)
			}
		},
		"short": func(w http.ResponseWriter, _ *http.Request) {
			if _, err := w.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			reg.serveInstead(func(w http.ResponseWriter, r *http.Request, d digest.Digest) bool {
				if d == bad && r.Method == http.MethodGet {
					answer(w, r)
				}
				return d == bad && r.Method == http.MethodGet
			})
			dir := filepath.Join(t.TempDir(), "cache")
			r := pullArgs(t, "-cache", dir, "-extract", reg.ref)
			require.Equal(t, console.ExitError, r.code)
			require.Contains(t, r.stderr, bad.String())
			require.Contains(t, r.stderr, "failed: ")
			require.NotContains(t, r.stderr, "\x1b")
			reg.serveInstead(nil)
			mustPull(t, "-cache", dir, "-extract", reg.ref)
			requireImage(t, dir, made, standardTree()...)
		})
	}
}

// A layer that is not what the config says is not unpacked, and leaves nothing behind.
func TestForgedDiffID(t *testing.T) { // scenario S-11, spec EXT-7, fault 41
	honest := makeImage(t, standardLayers()[:1]...)
	forged := makeImage(t, testLayer{mediaType: ocispecs.MediaTypeImageLayerGzip, entries: []tree.Entry{tree.File("evil", "evil")}})
	config := bytes.ReplaceAll(forged.blobs[forged.config.Digest], []byte(diffID(t, forged)), []byte(diffID(t, honest)))
	desc := forged.add(ocispecs.MediaTypeImageConfig, config)
	forged.manifest = forged.addJSON(t, ocispecs.MediaTypeImageManifest, ocispecs.Manifest{Config: desc, Layers: forged.layers})
	forged.index = indexOf(forged.manifest)

	dir := filepath.Join(t.TempDir(), "cache")
	r := pullArgs(t, "-cache", dir, "-extract", "-list", forged.writeLayout(t))
	require.Equal(t, console.ExitError, r.code)
	require.Contains(t, r.stderr, "failed to verify layer")
	require.NotContains(t, r.stdout, "evil")
	r = mustPull(t, "-cache", dir, "-extract", "-list", honest.writeLayout(t))
	require.Contains(t, r.stdout, "etc/passwd")
	require.NotContains(t, r.stdout, "evil")
}

func diffID(t testing.TB, made *testImage) string {
	t.Helper()
	img, err := findImage(t.Context(), memory{made, []ocispecs.Descriptor{made.manifest}}, testPlatform)
	require.NoError(t, err)
	return img.layers[0].Annotations[labels.LabelUncompressed]
}

// An image without layers has nothing to extract, list or mount.
func TestNoLayers(t *testing.T) {
	made := makeImage(t)
	dir := filepath.Join(t.TempDir(), "cache")
	r := mustPull(t, "-cache", dir, "-extract", "-list", made.writeLayout(t))
	require.Equal(t, "lazy   0 of 0 layers have to be fetched when their files are wanted\ndone   0 blobs fetched (0 B), 0 extracted\ncache  0 records\n",
		regexp.MustCompile(`(?s)^.*lazy`).ReplaceAllString(stable(r.stdout, dir), "lazy"))
}

func TestCommandLine(t *testing.T) {
	layout := makeImage(t).writeLayout(t)
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{nil, console.ExitUsage, "one SOURCE is wanted"},
		{[]string{"a", "b"}, console.ExitUsage, "there are 2 arguments"},
		{[]string{""}, console.ExitUsage, "one SOURCE"},
		{[]string{"-no-such-flag", layout}, console.ExitUsage, "usage: pull"},
		{[]string{"-platform", "a/b/c/d/e", layout}, console.ExitUsage, `platform "a/b/c/d/e"`},
		{[]string{"-h"}, 0, "usage: pull"},
		{[]string{"-cache", filepath.Join(layout, "index.json"), layout}, console.ExitError, "index.json"},
		{[]string{"-platform", "plan9/386", layout}, console.ExitError, "no image for the platform"},
		{[]string{"./no\x1b[2Jwhere"}, console.ExitError, `no image layout directory "./no\x1b[2Jwhere"`},
	} {
		r := pullArgs(t, tc.args...)
		require.Equal(t, tc.code, r.code, "%q: %s", tc.args, r.stderr)
		require.Contains(t, r.stderr, tc.want, "%q", tc.args)
		require.NotContains(t, r.stderr, "\x1b")
		require.Empty(t, r.stdout, "%q", tc.args)
	}
}

// On a terminal the layers move at its bottom, and end above it, each once.
func TestOnTerminal(t *testing.T) {
	made := makeImage(t, standardLayers()...)
	ft := newFakeTerminal(t, 100, 30)
	var stdout bytes.Buffer
	dir := filepath.Join(t.TempDir(), "cache")
	code := program.Command(t.Context(), []string{"-platform", "linux/amd64", "-cache", dir, "-extract", made.writeLayout(t)}, &stdout, ft, ft.size)
	require.Zero(t, code, ft.text())
	for _, desc := range made.layers {
		// The blob that two layers share is unpacked for each of them, unless they are seen as one change of phase.
		require.Regexp(t, `(?m)^layer [0-9,]+/5  `+console.Short(desc.Digest)+`  extracted  `+console.Bytes(desc.Size)+`$`, ft.text())
	}
	require.NotContains(t, ft.text(), "pull")
	require.NotContains(t, ft.text(), "extracting")
}

// limited is a pipe whose reader goes away after some bytes.
type limited struct{ room int }

func (l *limited) Write(p []byte) (int, error) {
	if l.room -= len(p); l.room < 0 {
		return 0, errors.New("broken pipe")
	}
	return len(p), nil
}

// Output that cannot be written any more ends the run, which cleans up.
func TestBrokenPipe(t *testing.T) {
	made := makeImage(t, standardLayers()...)
	layout, dir := made.writeLayout(t), filepath.Join(t.TempDir(), "cache")
	t.Setenv("TMPDIR", t.TempDir()) // cannot be removed with something mounted in it
	full := mustPull(t, "-cache", dir, "-extract", "-list", layout).stdout
	for room := 0; room < len(full); room += 97 {
		var stderr bytes.Buffer
		code := program.Command(t.Context(), []string{"-platform", "linux/amd64", "-cache", dir, "-extract", "-list", layout}, &limited{room}, &stderr, nil)
		require.Equal(t, console.ExitError, code)
		require.Equal(t, "pull: broken pipe\n", stderr.String())
	}
	requireImage(t, dir, made, standardTree()...)
}
