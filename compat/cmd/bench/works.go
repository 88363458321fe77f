package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/compat/e2e"
	"github.com/layercache/cache/testutil/fixture"
	"github.com/layercache/cache/testutil/machine"
)

// bench is what the works share.
type bench struct {
	flags
	temp     string // of this run
	programs *e2e.Programs
	base     *e2e.Layout
	files    string // the context of all builds
	machine  machine.Machine
	commit   string
	start    time.Time
}

func newBench(ctx context.Context, f flags) (_ *bench, err error) {
	b := &bench{flags: f, start: time.Now()}
	if b.quick {
		b.pairs = 1
	}
	if b.temp, err = os.MkdirTemp(f.dir, "lc-bench"); err != nil {
		return nil, errors.WithStack(err)
	}
	if err := b.prepare(ctx); err != nil {
		return nil, stderrors.Join(err, b.close())
	}
	return b, nil
}

func (b *bench) prepare(ctx context.Context) (err error) {
	b.commit = machine.Commit()
	if b.machine, err = machine.Describe(b.temp); err != nil {
		return err
	}
	dir := b.flags.programs
	if dir == "" {
		dir = filepath.Join(b.temp, "programs")
	}
	b.logf("building BuildKit, twice")
	if b.programs, err = e2e.BuildPrograms(ctx, dir); err != nil {
		return err
	}
	if b.base, err = e2e.WriteLayout(filepath.Join(b.temp, "base"), b.programs.Box); err != nil {
		return err
	}
	b.files = filepath.Join(b.temp, "files")
	for name, text := range map[string]string{"a.txt": "a", "b/c/d.txt": "d", "b/e.txt": "e"} {
		file := filepath.Join(b.files, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return errors.WithStack(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return errors.WithStack(err)
		}
	}
	return nil
}

// close removes what the run has made.
func (b *bench) close() error { return errors.WithStack(os.RemoveAll(b.temp)) }

func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(b.start).Seconds(), fmt.Sprintf(format, args...))
}

// scale is full in a full run and quick in a quick one.
func (b *bench) scale(full, quick int) int {
	if b.quick {
		return quick
	}
	return full
}

// measureAll takes all samples.
func (b *bench) measureAll(ctx context.Context) (lines []line, err error) {
	builds, err := b.builds(ctx)
	if err != nil {
		return nil, err
	}
	for _, records := range []int{0, b.scale(10_000, 200)} {
		l, err := b.starts(ctx, records)
		if err != nil {
			return nil, err
		}
		builds = append(builds, l)
	}
	return builds, nil
}

// config is that of a daemon on a directory of this run.
func (b *bench) config(name string, s e2e.Side) e2e.Config {
	return e2e.Config{Programs: b.programs, Dir: filepath.Join(b.temp, name+"-"+string(s)), Snapshotter: b.snapshotter}
}

// builds starts both daemons and measures builds.
func (b *bench) builds(ctx context.Context) (lines []line, err error) {
	daemons := map[e2e.Side]*e2e.Daemon{}
	for _, s := range e2e.Sides() {
		d, err := e2e.Start(ctx, b.config("builds", s), s)
		if err != nil {
			return nil, stderrors.Join(err, discard(daemons))
		}
		daemons[s] = d
	}
	defer func() { err = stderrors.Join(err, discard(daemons)) }()
	steps, few := b.scale(60, 10), b.scale(15, 5)
	for _, w := range []struct {
		name string
		take func(d *e2e.Daemon) (time.Duration, error)
	}{
		{
			fmt.Sprintf("a Dockerfile of %d steps, three in five of them RUN", steps),
			func(d *e2e.Daemon) (time.Duration, error) { return b.build(ctx, d, e2e.LongDockerfile(steps, "0")) },
		},
		{
			"the same again, every step in the cache",
			func(d *e2e.Daemon) (time.Duration, error) { return b.rebuild(ctx, d, e2e.LongDockerfile(steps, "0")) },
		},
		{
			fmt.Sprintf("a Dockerfile of %d COPY steps", steps),
			func(d *e2e.Daemon) (time.Duration, error) { return b.build(ctx, d, e2e.CopyDockerfile(steps, "0")) },
		},
		{
			fmt.Sprintf("8 builds at a time, of %d steps each, none in common", few),
			func(d *e2e.Daemon) (time.Duration, error) { return b.build(ctx, d, distinct(8, few)...) },
		},
	} {
		l, err := b.inTurns(w.name, func(s e2e.Side) (time.Duration, error) { return w.take(daemons[s]) })
		if err != nil {
			return nil, err
		}
		lines = append(lines, l)
	}
	return lines, nil
}

// discard ends daemons and removes what they leave mounted.
func discard(daemons map[e2e.Side]*e2e.Daemon) error {
	var errs []error
	for _, d := range daemons {
		if d.Running() {
			errs = append(errs, d.Stop())
		}
		errs = append(errs, e2e.RemoveContainers(d.Dir), e2e.Unmount(d.Dir))
	}
	return stderrors.Join(errs...)
}

// distinct are Dockerfiles that share nothing but the base image.
func distinct(n, steps int) (files []string) {
	for i := range n {
		files = append(files, e2e.LongDockerfile(steps, fmt.Sprint(i)))
	}
	return files
}

// build times builds that run at the same time, on an empty cache.
func (b *bench) build(ctx context.Context, d *e2e.Daemon, files ...string) (time.Duration, error) {
	if _, err := d.Prune(ctx, "--all"); err != nil {
		return 0, err
	}
	return b.timed(ctx, d, 0, files...)
}

// rebuild times a build of which everything is in the cache, and makes sure beforehand that it is.
func (b *bench) rebuild(ctx context.Context, d *e2e.Daemon, file string) (time.Duration, error) {
	if _, err := d.Build(ctx, b.recipe(file)); err != nil {
		return 0, err
	}
	return b.timed(ctx, d, 1, file)
}

func (b *bench) recipe(file string) e2e.Build {
	return e2e.Build{Dockerfile: file, Context: b.files, Base: b.base}
}

// timed runs builds and requires that so large a part of the steps was in the cache: none or all.
func (b *bench) timed(ctx context.Context, d *e2e.Daemon, part int, files ...string) (time.Duration, error) {
	begin := time.Now()
	var g errgroup.Group
	for _, file := range files {
		g.Go(func() error {
			r, err := d.Build(ctx, b.recipe(file))
			if err == nil && (len(r.Steps) == 0 || len(r.Cached()) != part*len(r.Steps)) {
				err = errors.Errorf("of %d steps %d were in the cache", len(r.Steps), len(r.Cached()))
			}
			return err
		})
	}
	err := g.Wait()
	return time.Since(begin), err
}

// starts measures how long a daemon takes until it serves, on a directory with so many records.
func (b *bench) starts(ctx context.Context, records int) (line, error) {
	name := fmt.Sprintf("start%d", records)
	for _, s := range e2e.Sides() {
		if records == 0 {
			continue
		}
		b.logf("making a directory of %d records", records)
		c := b.config(name, s)
		if err := os.MkdirAll(filepath.Dir(c.Worker()), 0o700); err != nil {
			return line{}, errors.WithStack(err)
		}
		spec := fixture.Spec{Snapshotter: b.snapshotter, Records: records, Chain: 10, SizesKnown: true}
		if err := fixture.Make(ctx, c.Worker(), spec); err != nil {
			return line{}, err
		}
	}
	work := fmt.Sprintf("start of buildkitd on %d records in chains of 10", records)
	if records == 0 {
		work = "start of buildkitd on no records"
	}
	return b.inTurns(work, func(s e2e.Side) (time.Duration, error) {
		begin := time.Now()
		d, err := e2e.Start(ctx, b.config(name, s), s)
		if err != nil {
			return 0, err
		}
		took := time.Since(begin)
		return took, stderrors.Join(b.holds(ctx, d, records), discard(map[e2e.Side]*e2e.Daemon{s: d}))
	})
}

// holds makes sure that a daemon has found its records.
func (b *bench) holds(ctx context.Context, d *e2e.Daemon, records int) error {
	found, err := d.Usage(ctx)
	if err == nil && len(found) != records {
		err = errors.Errorf("%d records are there, and not %d", len(found), records)
	}
	return err
}

// inTurns takes a sample of either side to warm up, then the pairs, and makes a line of the medians.
func (b *bench) inTurns(work string, take func(e2e.Side) (time.Duration, error)) (line, error) {
	b.logf("%s", work)
	samples := map[e2e.Side][]time.Duration{}
	for i := range b.pairs + 1 {
		for _, s := range e2e.Sides() {
			took, err := take(s)
			if err != nil {
				return line{}, errors.Wrapf(err, "%s (%s)", work, s)
			}
			b.logf("  %s %s", s, took.Round(time.Millisecond))
			if i > 0 {
				samples[s] = append(samples[s], took)
			}
		}
	}
	return line{work: work, stock: median(samples[e2e.Stock]), ours: median(samples[e2e.Ours])}, nil
}
