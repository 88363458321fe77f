// Command dropincheck runs the drop-in check (../shared/dropin/check.sh) and compares all that BuildKit misses on this library
// with a kept list of what later issues bring. A gap that is not listed fails, and so does a listed one that is closed.
//
//	go run ./internal/tools/dropincheck -check ../shared/dropin/check.sh -known docs/dropin-missing.txt
//
// check.sh keeps its work directory to itself and the compiler stops at the first broken package of every path. So check.sh is
// run with a `go` of our own first in PATH: this program again, which passes everything on, but looks at a `go build -overlay`
// in place before it runs it.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"

	"github.com/pkg/errors"
)

const (
	realGo     = "DROPINCHECK_GO"     // the go command that the stand-in passes calls on to
	reportFile = "DROPINCHECK_REPORT" // where the stand-in leaves its findings
	// minPackages is far below the number of packages that the overlay is compiled with; fewer means that the list is broken.
	minPackages = 300
)

// report is what the stand-in saw.
type report struct {
	Packages int // in the build, dependencies included
	Checked  int // from source, because they did not compile
	Findings []reported
}

type reported struct{ Pkg, ID, Msg string }

func main() {
	if goCmd := os.Getenv(realGo); goCmd != "" && filepath.Base(os.Args[0]) == "go" {
		os.Exit(standIn(goCmd, os.Args[1:]))
	}
	check := flag.String("check", "../shared/dropin/check.sh", "the drop-in check")
	knownFile := flag.String("known", "docs/dropin-missing.txt", "list of known gaps: IDENTIFIER ISSUE WHY")
	flag.Parse()
	bad, err := run(*check, *knownFile)
	if err != nil {
		fmt.Fprintln(os.Stderr, "dropincheck:", err)
		os.Exit(2)
	}
	sort.Strings(bad)
	for _, b := range bad {
		fmt.Fprintln(os.Stderr, "dropincheck:", b)
	}
	if len(bad) > 0 {
		os.Exit(1)
	}
}

func run(check, knownFile string) ([]string, error) {
	gaps, err := readKnown(knownFile)
	if err != nil {
		return nil, err
	}
	r, compiles, err := runCheck(check)
	if err != nil {
		return nil, err
	}
	if r.Packages < minPackages {
		return nil, errors.Errorf("the build has %d packages, expected at least %d", r.Packages, minPackages)
	}
	findings := make([]finding, 0, len(r.Findings))
	for _, f := range r.Findings {
		findings = append(findings, finding{pkg: f.Pkg, id: f.ID, msg: f.Msg})
	}
	fmt.Printf("dropincheck: %d packages, %d of them checked from source, %d findings, %d known gaps\n", r.Packages, r.Checked, len(findings), len(gaps))
	return judge(os.Stdout, findings, gaps, compiles), nil
}

// runCheck runs check.sh with the stand-in and returns the findings and check.sh's own verdict.
func runCheck(check string) (*report, bool, error) {
	goCmd, err := exec.LookPath("go")
	if err != nil {
		return nil, false, errors.Wrap(err, "go command")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, false, errors.Wrap(err, "own executable")
	}
	dir, err := os.MkdirTemp("", "dropincheck-")
	if err != nil {
		return nil, false, errors.Wrap(err, "work directory")
	}
	defer os.RemoveAll(dir)
	if err := os.Symlink(self, filepath.Join(dir, "go")); err != nil {
		return nil, false, errors.Wrap(err, "stand-in")
	}
	cmd := exec.Command(check)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(),
		"PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"), realGo+"="+goCmd, reportFile+"="+filepath.Join(dir, "report.json"))
	failed := cmd.Run()
	var exit *exec.ExitError
	if failed != nil && !errors.As(failed, &exit) {
		return nil, false, errors.Wrap(failed, "run check.sh")
	}
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		return nil, false, errors.Wrap(err, "check.sh did not get as far as its build")
	}
	r := new(report)
	return r, failed == nil, errors.Wrap(json.Unmarshal(text, r), "read report")
}

// standIn is the `go` that check.sh calls.
func standIn(goCmd string, args []string) int {
	if len(args) > 2 && args[0] == "build" && args[1] == "-overlay" {
		if err := inspect(goCmd, args[2], args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, "dropincheck:", err)
			return 3
		}
	}
	cmd := exec.Command(goCmd, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "dropincheck:", err)
		return 3
	}
	return 0
}

// inspect type-checks the targets of `go build -overlay OVERLAY REST...` and writes the report.
func inspect(goCmd, overlay string, rest []string) error {
	if len(rest) > 2 && rest[0] == "-o" {
		rest = rest[2:]
	}
	args := []string{"list", "-e", "-deps", "-export", "-json=ImportPath,Dir,Export,GoFiles,CgoFiles,ImportMap,DepOnly,Standard,Error", "-overlay", overlay}
	cmd := exec.Command(goCmd, append(args, rest...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	list, err := cmd.Output()
	if err != nil {
		return errors.Wrapf(err, "go list: %s", strings.TrimSpace(stderr.String()))
	}
	text, err := os.ReadFile(overlay)
	if err != nil {
		return errors.Wrap(err, "overlay")
	}
	c, order, err := newChecker(text, bytes.NewReader(list))
	if err != nil {
		return err
	}
	if err := c.analyse(order); err != nil {
		return err
	}
	r := report{Packages: len(order), Checked: c.checked}
	for _, f := range c.findings {
		r.Findings = append(r.Findings, reported{Pkg: f.pkg, ID: f.id, Msg: f.msg})
	}
	out, err := json.Marshal(r)
	if err != nil {
		return errors.Wrap(err, "report")
	}
	return errors.Wrap(os.WriteFile(os.Getenv(reportFile), out, 0o600), "report")
}
