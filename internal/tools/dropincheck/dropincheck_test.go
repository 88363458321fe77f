package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// engine is a module that uses a cut-down library through an alias package, the way BuildKit does under the overlay.
var engine = map[string]string{
	"lib/go.mod":         "module " + library + "\n\ngo 1.26\n",
	"lib/cache.go":       "package cache\n\ntype Accessor interface{ Get() }\n\ntype Opt struct{ Root string }\n",
	"lib/snapshot/s.go":  "package snapshot\n\ntype Snapshotter interface{ Close() }\n",
	"go.mod":             "module example.org/engine\n\ngo 1.26\n\nrequire " + library + " v0.0.0\n\nreplace " + library + " => ./lib\n",
	"cache/cache.go":     "package cache\n\nthis file is replaced by the overlay\n",
	"alias.go.txt":       "package cache\n\nimport lib \"" + library + "\"\n\ntype (\n\tAccessor = lib.Accessor\n\tOpt = lib.Opt\n\tUnlazier = lib.Unlazier\n)\n",
	"snap/snap.go":       "package snap\n\nimport lib \"" + library + "/snapshot\"\n\ntype S = lib.Snapshotter\n\ntype D = lib.Diff\n",
	"worker/worker.go":   "package worker\n\nimport \"example.org/engine/cache\"\n\nvar U cache.Unlazier\n\nvar O = cache.Opt{Root: \"/\", Hooks: nil}\n\nfunc F(a cache.Accessor) { a.Get(); a.GetByBlob() }\n",
	"healthy/healthy.go": "package healthy\n\nimport \"fmt\"\n\nfunc F() { fmt.Println() }\n",
}

// inspectEngine runs the analysis on the fixture, changed by edit.
func inspectEngine(t *testing.T, edit map[string]string) (*report, error) {
	t.Helper()
	root := t.TempDir()
	for _, files := range []map[string]string{engine, edit} {
		for name, text := range files {
			full := filepath.Join(root, filepath.FromSlash(name))
			require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o700))
			require.NoError(t, os.WriteFile(full, []byte(text), 0o600))
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(root, "cache", "cache.go"):    "",
		filepath.Join(root, "cache", "zz_alias.go"): filepath.Join(root, "alias.go.txt"),
	}})
	require.NoError(t, err)
	overlayFile := filepath.Join(root, "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, overlay, 0o600))
	goCmd, err := exec.LookPath("go")
	require.NoError(t, err)
	t.Chdir(root)
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv(reportFile, filepath.Join(root, "report.json"))
	if err := inspect(goCmd, overlayFile, []string{"-o", os.DevNull, "./..."}); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(root, "report.json"))
	require.NoError(t, err)
	r := new(report)
	require.NoError(t, json.Unmarshal(text, r))
	return r, nil
}

func idsOf(r *report) []string {
	var list []string
	for _, f := range r.Findings {
		list = append(list, f.ID)
	}
	return list
}

// TestInspectSeesPastTheFirstBrokenPackage: worker is found to miss a method and a field although cache does not compile.
func TestInspectSeesPastTheFirstBrokenPackage(t *testing.T) {
	r, err := inspectEngine(t, nil)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"cache.Unlazier", "snapshot.Diff", "cache.Accessor.GetByBlob", "cache.Opt.Hooks"}, idsOf(r), "%+v", r.Findings)
	require.Equal(t, 3, r.Checked, "healthy compiles and is not looked at")
}

func TestInspectOfACompleteLibrary(t *testing.T) {
	r, err := inspectEngine(t, map[string]string{
		"lib/cache.go":      "package cache\n\ntype Accessor interface{ Get(); GetByBlob() }\n\ntype Opt struct{ Root string; Hooks any }\n\ntype Unlazier any\n",
		"lib/snapshot/s.go": "package snapshot\n\ntype Snapshotter interface{ Close() }\n\ntype Diff struct{}\n",
	})
	require.NoError(t, err)
	require.Empty(t, r.Findings)
	require.Zero(t, r.Checked)
	require.Greater(t, r.Packages, 4)
}

func TestInspectOfABrokenLibrary(t *testing.T) {
	_, err := inspectEngine(t, map[string]string{"lib/snapshot/s.go": "package snapshot\n\nvar X undefinedType\n"})
	require.ErrorContains(t, err, "the library itself does not compile: "+library+"/snapshot")
}

// TestInspectKeepsWhatHasNoName: an error that no entry of the list could stand for stays an error.
func TestInspectKeepsWhatHasNoName(t *testing.T) {
	r, err := inspectEngine(t, map[string]string{"healthy/healthy.go": "package healthy\n\nvar X int = \"text\"\n"})
	require.NoError(t, err)
	require.Contains(t, idsOf(r), "")
}

func TestIdentify(t *testing.T) {
	imports := map[string]string{"lib": library, "snap": library + "/snapshot", "other": "example.org/other"}
	for msg, want := range map[string]string{
		"undefined: lib.Hooks":     "cache.Hooks",
		"undefined: snap.Diff":     "snapshot.Diff",
		"undefined: other.Thing":   "",
		"undefined: localName":     "",
		"declared and not used: x": "",
		"x.Foo undefined (type *cache.Manager has no field or method Foo)":                                                 "cache.Manager.Foo",
		"unknown field Hooks in struct literal of type cache.ManagerOpt":                                                   "cache.ManagerOpt.Hooks",
		"cannot use s (variable of type *lib.Store) as c.S value: *lib.Store does not implement c.S (missing method Info)": "lib.Store.Info",
		`could not import ` + library + `/local (no export data)`:                                                          "cache/local",
		"x.Foo undefined (type *\"b/cache\".Manager has no field or method Foo)":                                           "cache.Manager.Foo",
		`could not import example.org/other (no export data)`:                                                              "",
	} {
		require.Equal(t, want, identify(msg, imports), msg)
	}
}

func TestJudge(t *testing.T) {
	missing := []finding{{pkg: "b/cache", id: "cache.Hooks", msg: "m"}, {pkg: "b/worker", id: "cache.Hooks", msg: "m"}}
	gaps := map[string]known{"cache.Hooks": {line: 3, issue: "5", why: "pull"}}
	for _, tc := range []struct {
		name     string
		findings []finding
		gaps     map[string]known
		compiles bool
		want     []string
	}{
		{name: "known gap", findings: missing, gaps: gaps},
		{name: "all compiles, nothing listed", compiles: true},
		{name: "unknown gap", findings: missing, want: []string{"missing and not on the list: cache.Hooks, needed by b/cache, b/worker"}},
		{name: "closed gap", gaps: gaps, compiles: true, want: []string{"stale entry, line 3: cache.Hooks is no longer missing"}},
		{name: "an error without a name", findings: append([]finding{{pkg: "b", msg: "b: x.go:1: boom"}}, missing...), gaps: gaps, want: []string{"unexpected: b: x.go:1: boom"}},
		{name: "check.sh fails otherwise", want: []string{"check.sh fails for a reason that the type checker does not see; its output stands above"}},
		{name: "check.sh passes otherwise", findings: missing, gaps: gaps, compiles: true, want: []string{"check.sh says it compiles, and the type checker disagrees"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			require.Equal(t, tc.want, judge(&out, tc.findings, tc.gaps, tc.compiles))
			require.Equal(t, len(tc.findings) > 0 && tc.gaps != nil, out.Len() > 0, "known gaps are told with their issue")
		})
	}
}

func TestReadKnown(t *testing.T) {
	name := filepath.Join(t.TempDir(), "known")
	for text, want := range map[string]string{
		"# nothing\n":                    "",
		"cache.A 4 why\n":                "",
		"cache.A 4\n":                    "want `IDENTIFIER ISSUE WHY`",
		"cache.A later why\n":            "want `IDENTIFIER ISSUE WHY`",
		"cache.A 4 why\ncache.A 5 why\n": "stands here twice",
	} {
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		_, err := readKnown(name)
		if want == "" {
			require.NoError(t, err, text)
			continue
		}
		require.ErrorContains(t, err, want, text)
	}
	_, err := readKnown(name + ".absent")
	require.ErrorIs(t, err, os.ErrNotExist)
}
