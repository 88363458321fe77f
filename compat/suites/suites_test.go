package suites

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/compat/overlay"
	"github.com/layercache/cache/testutil/subset"
)

// list reads the list that the repository has.
func list(t *testing.T) *List {
	t.Helper()
	f, err := os.Open("stock.txt")
	require.NoError(t, err)
	defer f.Close()
	l, err := ReadList(f)
	require.NoError(t, err)
	return l
}

func workspace(t *testing.T) *overlay.Workspace {
	t.Helper()
	w, err := overlay.Write(context.Background(), overlay.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	return w
}

// ready skips the test where BuildKit's cannot run.
func ready(t *testing.T) {
	t.Helper()
	if err := Ready(context.Background()); err != nil {
		t.Skip(err)
	}
}

// TestSuites runs BuildKit's tests on the library and compares them with the list. With LAYERCACHE_SUITES=both they run on BuildKit's
// own cache, too, and the list has to be as they end there. Otherwise stock runs only what is not as listed on ours, to tell what the cause is.
func TestSuites(t *testing.T) {
	ready(t)
	ctx, l := context.Background(), list(t)
	r := Runner{Workspace: workspace(t)}
	selected, daemons, err := Select(ctx, r.Workspace)
	require.NoError(t, err)
	problems := l.CheckPackages(selected, daemons)
	selected = inSubset(t, selected)
	ours, err := r.Run(ctx, Ours, selected)
	require.NoError(t, err)
	for tries := 0; len(ours.Unlucky()) > 0 && tries < 3; tries++ {
		unlucky := slices.DeleteFunc(slices.Clone(selected), func(p Package) bool { return !ours.Unlucky()[p.Path] })
		t.Logf("%v, once more on ours: %s", unlucky, fileBusy)
		again, err := r.Run(ctx, Ours, unlucky)
		require.NoError(t, err)
		ours.replace(again)
	}
	differ := l.Check(Ours, ours)
	problems = append(problems, differ...)
	stock := newResults()
	if os.Getenv("LAYERCACHE_SUITES") == "both" {
		stock, err = r.Run(ctx, Stock, selected)
	} else if again := concerned(selected, differ); len(again) > 0 {
		stock, err = r.Run(ctx, Stock, again)
	}
	require.NoError(t, err)
	for _, p := range append(problems, l.Check(Stock, stock)...) {
		t.Error(p)
	}
	t.Logf("%d tests on ours, %d on stock", len(ours.Outcomes), len(stock.Outcomes))
}

// inSubset returns the packages that are run where not all are to be.
func inSubset(t *testing.T, packages []Package) []Package {
	var paths []string
	for _, p := range packages {
		paths = append(paths, p.Path)
	}
	paths = subset.Of(t, paths)
	return slices.DeleteFunc(packages, func(p Package) bool { return !slices.Contains(paths, p.Path) })
}

// concerned returns the packages of which problems speak.
func concerned(packages []Package, problems []Problem) []Package {
	return slices.DeleteFunc(slices.Clone(packages), func(p Package) bool {
		return !slices.ContainsFunc(problems, func(q Problem) bool { return q.Test.Package == p.Path })
	})
}

// TestTableIsCurrent compares the page in docs with the list.
func TestTableIsCurrent(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, list(t).WriteTable(&b))
	dt, err := os.ReadFile("../../docs/buildkit-tests.md")
	require.NoError(t, err)
	require.Equal(t, b.String(), string(dt), Rewrite)
}

// TestSelect: the packages that issue 9 names are there, the replaced ones and those that only start daemons are not.
func TestSelect(t *testing.T) {
	selected, daemons, err := Select(context.Background(), workspace(t))
	require.NoError(t, err)
	paths := map[string]Package{}
	for _, p := range selected {
		paths[p.Path] = p
	}
	for _, path := range []string{
		"cache/contenthash", "solver/llbsolver", "solver/llbsolver/mounts", "solver/llbsolver/provenance/types", "source/containerblob", "source/git",
		"source/http", "source/local", "worker", "worker/base", "worker/runc", "exporter/local",
	} {
		require.Contains(t, paths, path)
	}
	require.Equal(t, Package{Path: "worker/base", Uses: paths["worker/base"].Uses}, paths["worker/base"])
	require.Contains(t, paths["worker/base"].Uses, "cache/metadata")
	require.True(t, paths["util/compression"].Leaf)
	for _, path := range append(overlay.Replaced(), "util/gitutil", "frontend/dockerfile") {
		require.NotContains(t, paths, path)
	}
	require.True(t, slices.ContainsFunc(daemons, func(p Package) bool { return p.Path == "frontend/dockerfile" }))
}

// TestRunRefuses has no packages, and one that is none.
func TestRunRefuses(t *testing.T) {
	r := Runner{Workspace: workspace(t)}
	_, err := r.Run(context.Background(), Ours, nil)
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	ready(t)
	results, err := r.Run(context.Background(), Ours, []Package{{Path: "no/such/package"}})
	if err == nil {
		require.NotEmpty(t, results.Broken)
	}
}

// TestIsolate: what is isolated sees its loopback interface and no other, and its mounts are nobody else's.
func TestIsolate(t *testing.T) {
	ready(t)
	dir := t.TempDir()
	script := `mount -t tmpfs none "$0" && touch "$0/file" && cat /proc/net/dev && echo "home $HOME helper $` + helperVariable + `"`
	cmd := isolatedCommand(context.Background(), "sh", "-c", script, dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	interfaces := 0
	for line := range strings.Lines(string(out)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			interfaces++
			require.Equal(t, "lo", strings.TrimSpace(name))
		}
	}
	require.Equal(t, 1, interfaces, "%s", out)
	require.Contains(t, string(out), "home "+os.TempDir()+" helper \n")
	require.NoFileExists(t, filepath.Join(dir, "file"))

	l, err := exec.Command("sh", "-c", "exit 3").CombinedOutput()
	require.Error(t, err, "%s", l)
	err = isolatedCommand(context.Background(), "sh", "-c", "exit 3").Run()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 3, exit.ExitCode())
	require.Error(t, isolatedCommand(context.Background(), "no-such-command").Run())
}

// TestRegistry pulls the image as a client would: manifest, config and layer, each by its digest.
func TestRegistry(t *testing.T) {
	i, err := newImage([]byte("program"), []string{"sh", "busybox", "ls"})
	require.NoError(t, err)
	srv := httptest.NewServer(i)
	defer srv.Close()
	get := func(method, path string) (int, []byte) {
		req, err := http.NewRequestWithContext(context.Background(), method, srv.URL+path, http.NoBody)
		require.NoError(t, err)
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		dt, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, dt
	}
	blob := func(path string, desc ocispecs.Descriptor, into any) {
		code, dt := get(http.MethodGet, path+desc.Digest.String())
		require.Equal(t, http.StatusOK, code)
		require.Equal(t, desc.Digest, digest.FromBytes(dt))
		require.Len(t, dt, int(desc.Size))
		if into != nil {
			require.NoError(t, json.Unmarshal(dt, into))
		}
	}
	const name = "/v2/library/busybox"
	code, latest := get(http.MethodGet, name+"/manifests/latest")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, i.manifest.Digest, digest.FromBytes(latest))
	var manifest ocispecs.Manifest
	var config ocispecs.Image
	blob(name+"/manifests/", i.manifest, &manifest)
	blob(name+"/blobs/", manifest.Config, &config)
	require.Len(t, manifest.Layers, 1)
	blob(name+"/blobs/", manifest.Layers[0], nil)
	require.Equal(t, []digest.Digest{manifest.Layers[0].Digest}, config.RootFS.DiffIDs)

	for path, want := range map[string]int{
		"/v2/": http.StatusOK, name + "/manifests/older": http.StatusNotFound, "/v2/other/manifests/latest": http.StatusNotFound,
		name + "/blobs/" + digest.FromString("x").String(): http.StatusNotFound,
	} {
		code, _ := get(http.MethodGet, path)
		require.Equal(t, want, code, path)
	}
	code, _ = get(http.MethodPut, name+"/manifests/latest")
	require.Equal(t, http.StatusMethodNotAllowed, code)
}
