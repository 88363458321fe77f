// Command importcheck holds the import direction of docs/design.md section 2: who may import whom (all files of all modules,
// whatever their build constraints), how much importing the library drags in (bench.md row 19), and what go.mod never requires.
// It runs in the root of the repository.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/pkg/errors"
)

func main() {
	bad, err := run(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "importcheck:", err)
		os.Exit(2)
	}
	for _, b := range bad {
		fmt.Fprintln(os.Stderr, "importcheck:", b)
	}
	if len(bad) > 0 {
		os.Exit(1)
	}
}

func run(root string) ([]string, error) {
	module, required, err := goMod(root)
	if err != nil {
		return nil, err
	}
	s, err := scan(root, module)
	if err != nil {
		return nil, err
	}
	bad := append(check(s, rules), checkModules(required, heavyModules)...)
	fmt.Printf("importcheck: %d imports of %d packages, %d rules\n", len(s.imports), len(s.packages), len(rules))
	for _, l := range limits {
		graph, err := importGraph(root, l.pkg)
		if err != nil {
			bad = append(bad, err.Error())
			continue
		}
		fmt.Printf("importcheck: %s imports %d non-stdlib packages (at most %d)\n", l.pkg, len(graph), l.packages)
		bad = append(bad, checkLimit(module, l, graph)...)
	}
	return bad, nil
}

// goMod returns the module's path and the paths it requires.
func goMod(root string) (string, []string, error) {
	out, err := goTool(root, nil, "mod", "edit", "-json")
	if err != nil {
		return "", nil, err
	}
	var mod struct {
		Module  struct{ Path string }
		Require []struct{ Path string }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		return "", nil, errors.Wrap(err, "go mod edit -json")
	}
	var required []string
	for _, r := range mod.Require {
		required = append(required, r.Path)
	}
	return mod.Module.Path, required, nil
}

// importGraph lists the non-stdlib packages that building pkg for linux/amd64 needs, pkg included.
func importGraph(root, pkg string) ([]string, error) {
	env := []string{"GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0"}
	out, err := goTool(root, env, "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg)
	if err != nil {
		return nil, err
	}
	return strings.Fields(string(out)), nil
}

func goTool(dir string, env []string, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr, cmd.Env = dir, &stderr, append(os.Environ(), env...)
	out, err := cmd.Output()
	return out, errors.Wrapf(err, "go %s: %s", strings.Join(args, " "), strings.TrimSpace(stderr.String()))
}
