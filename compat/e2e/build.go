package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
)

// Build is one build by the Dockerfile frontend that is part of buildkitd.
type Build struct {
	// Dockerfile is the file's text.
	Dockerfile string
	// Context is the directory that COPY copies from; empty for one without files.
	Context string
	// Base is the image that FROM base means.
	Base *Layout
	// NoCache has every step run again.
	NoCache bool
	// Output is the client's --output. Empty means that the result stays in the cache.
	Output string
	// Args are more arguments of the client.
	Args []string
	// Watch sees the progress while the build runs.
	Watch func(*client.SolveStatus)
}

// Result is a build that has succeeded.
type Result struct {
	// Digest is that of the image, empty if none was exported.
	Digest digest.Digest
	// Steps are the steps of the Dockerfile that there were, by name. Two of one name are one.
	Steps []Step
}

// Step is what became of a step.
type Step struct {
	Name   string
	Cached bool
	// Log is what it printed.
	Log string
}

// Log returns what the steps printed whose names contain a text.
func (r *Result) Log(name string) string {
	var b strings.Builder
	for _, s := range r.Steps {
		if strings.Contains(s.Name, name) {
			b.WriteString(s.Log)
		}
	}
	return b.String()
}

// Cached returns the names of the steps that were found in the cache.
func (r *Result) Cached() []string { return r.names(true) }

// Ran returns the names of the steps that were not.
func (r *Result) Ran() []string { return r.names(false) }

func (r *Result) names(cached bool) (names []string) {
	for _, s := range r.Steps {
		if s.Cached == cached {
			names = append(names, s.Name)
		}
	}
	return names
}

// Reproducible makes a build give the same image whenever and wherever it runs, if it exports one.
func (b Build) Reproducible() Build {
	b.Output += ",rewrite-timestamp=true"
	b.Args = append(slices.Clone(b.Args), "--opt=build-arg:SOURCE_DATE_EPOCH="+strconv.FormatInt(Epoch.Unix(), 10))
	return b
}

// Build has a daemon run a build. A build that fails is an error with the client's text, and the result tells how far it came.
func (d *Daemon) Build(ctx context.Context, b Build) (*Result, error) {
	dir, err := os.MkdirTemp(d.temp(), "build")
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	args, err := b.args(dir)
	if err != nil {
		return nil, err
	}
	cmd := d.Buildctl(ctx, args...)
	progress, err := cmd.StderrPipe()
	if err != nil {
		return nil, errors.WithStack(err)
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.WithStack(err)
	}
	seen := newSteps()
	said := seen.read(progress, b.Watch)
	err = cmd.Wait()
	result := &Result{Steps: seen.list()}
	if err != nil {
		return result, errors.Wrapf(err, "buildctl %s: %s", strings.Join(args, " "), said)
	}
	result.Digest, err = imageDigest(filepath.Join(dir, metadataFile))
	return result, err
}

const metadataFile = "metadata.json"

// args writes what the client reads into a directory, and returns its arguments.
func (b Build) args(dir string) ([]string, error) {
	recipe, files := filepath.Join(dir, "recipe"), b.Context
	if files == "" {
		files = filepath.Join(dir, "empty")
		if err := os.Mkdir(files, 0o755); err != nil {
			return nil, errors.WithStack(err)
		}
	}
	if err := os.Mkdir(recipe, 0o755); err != nil {
		return nil, errors.WithStack(err)
	}
	if err := os.WriteFile(filepath.Join(recipe, "Dockerfile"), []byte(b.Dockerfile), 0o644); err != nil {
		return nil, errors.WithStack(err)
	}
	args := []string{
		"build", "--progress=rawjson", "--frontend=dockerfile.v0", "--local=context=" + files, "--local=dockerfile=" + recipe,
		"--metadata-file=" + filepath.Join(dir, metadataFile),
	}
	if b.Base != nil {
		args = append(args, "--oci-layout=base="+b.Base.Dir, "--opt=context:base=oci-layout://base@"+b.Base.Digest.String())
	}
	if b.NoCache {
		args = append(args, "--no-cache")
	}
	if b.Output != "" {
		args = append(args, "--output="+b.Output)
	}
	return append(args, b.Args...), nil
}

// imageDigest reads what the client says of the image that it exported.
func imageDigest(file string) (digest.Digest, error) {
	dt, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", errors.WithStack(err)
	}
	var meta struct {
		Digest digest.Digest `json:"containerimage.digest"`
	}
	return meta.Digest, errors.WithStack(json.Unmarshal(dt, &meta))
}

// stepName is how the frontend calls the steps of a Dockerfile, such as "[2/5] RUN make" or "[stage-1 2/5] RUN make".
var stepName = regexp.MustCompile(`^\[([^\]]+ )?[0-9]+/[0-9]+\] `)

// steps gathers the steps of a build from its progress.
type steps struct {
	byID  map[digest.Digest]*Step
	order []digest.Digest
}

func newSteps() *steps { return &steps{byID: map[digest.Digest]*Step{}} }

// read reads the client's progress to its end, and returns the lines that are none.
func (s *steps) read(from io.Reader, watch func(*client.SolveStatus)) string {
	var said strings.Builder
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		var status client.SolveStatus
		if json.Unmarshal(line, &status) != nil {
			said.Write(line)
		} else {
			s.add(&status)
			if watch != nil {
				watch(&status)
			}
		}
		if err != nil {
			return said.String()
		}
	}
}

func (s *steps) add(status *client.SolveStatus) {
	for _, v := range status.Vertexes {
		if !stepName.MatchString(v.Name) {
			continue
		}
		step := s.byID[v.Digest]
		if step == nil {
			step = &Step{Name: v.Name}
			s.byID[v.Digest] = step
			s.order = append(s.order, v.Digest)
		}
		step.Cached = step.Cached || v.Cached
	}
	for _, l := range status.Logs {
		if step := s.byID[l.Vertex]; step != nil {
			step.Log += string(l.Data)
		}
	}
}

func (s *steps) list() (list []Step) {
	for _, id := range s.order {
		list = append(list, *s.byID[id])
	}
	slices.SortFunc(list, func(a, b Step) int { return strings.Compare(a.Name, b.Name) })
	return list
}
