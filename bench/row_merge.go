package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/image"
	"github.com/layercache/cache/bench/measure"
	"github.com/layercache/cache/testutil/loopfs"
)

// withinOfCopy is how much longer than `cp -al` of the same files a merge may take.
const withinOfCopy = 1.3

// mergeRow is row 13: a merge of independent layers with directories in common.
func mergeRow() row {
	return row{13, "Merge of 5 layers, materialised", func(ctx context.Context, e *env) ([]line, error) {
		var lines []line
		for _, snapshotter := range e.mergeSnapshotters() {
			target, words := 2.5, ">= 2.5x"
			if snapshotter == "native" {
				target, words = 1.5, ">= 1.5x"
			}
			more, err := e.withTrees(ctx, e.dir, snapshotter, func(x *treeBench) ([]line, error) {
				l := line{Work: x.work("Merge + Extract of %d layers of %d files of 4 KiB"), Unit: unitTime, MinRatio: target}
				var err error
				if l.Peer, l.Ours, err = e.alternate(ctx, unitTime, x.merge(sidePeer), x.merge(sideOurs)); err != nil {
					return nil, err
				}
				cp, err := x.copyLine(ctx, "-al")
				if err != nil {
					return nil, err
				}
				l.MaxOurs = withinOfCopy * cp.Ours
				l.Target = fmt.Sprintf("%s; within %sx of cp -al", words, measure.Significant(withinOfCopy))
				return []line{l, cp}, nil
			})
			if err != nil {
				return nil, err
			}
			lines = append(lines, more...)
		}
		return lines, nil
	}}
}

// diffRow is row 14: what a merge has beside one of its layers.
func diffRow() row {
	return row{14, "Diff of a layer against the merge, materialised", func(ctx context.Context, e *env) ([]line, error) {
		var lines []line
		for _, snapshotter := range e.mergeSnapshotters() {
			more, err := e.withTrees(ctx, e.dir, snapshotter, func(x *treeBench) ([]line, error) {
				l := line{Work: x.work("Diff + Extract of one of %d layers of %d files of 4 KiB and their merge"), Unit: unitTime, MinRatio: 2, Target: ">= 2x"}
				var err error
				l.Peer, l.Ours, err = e.alternate(ctx, unitTime, x.diff(sidePeer), x.diff(sideOurs))
				return []line{l}, err
			})
			if err != nil {
				return nil, err
			}
			lines = append(lines, more...)
		}
		return lines, nil
	}}
}

// cloneRow is row 15: a merge where files cannot be linked between snapshots, but share their blocks.
func cloneRow() row {
	return row{15, "Merge without hard links, on a filesystem with reflinks", func(ctx context.Context, e *env) (lines []line, err error) {
		const kind = loopfs.XFS
		fs, err := loopfs.Make(e.dir, kind, 8<<30)
		if errors.Is(err, loopfs.ErrUnavailable) {
			return []line{{Work: "Merge on " + kind + ": not measured, " + err.Error(), Unit: unitTime, Target: ">= 3x"}}, nil
		}
		if err != nil {
			return nil, err
		}
		defer func() { err = stderrors.Join(err, fs.Close()) }()
		return e.withTrees(ctx, fs.Dir, image.CopyingSnapshotter, func(x *treeBench) ([]line, error) {
			l := line{Work: x.work("Merge + Extract of %d layers of %d files of 4 KiB") + " (native without links, " + kind + ")", Unit: unitTime, MinRatio: 3, Target: ">= 3x"}
			var err error
			if l.Peer, l.Ours, err = e.alternate(ctx, unitTime, x.merge(sidePeer), x.merge(sideOurs)); err != nil {
				return nil, err
			}
			lines := []line{l}
			for _, how := range []string{"-al", "-a --reflink=always", "-a --reflink=never"} {
				cp, err := x.copyLine(ctx, how)
				if err != nil {
					return nil, err
				}
				lines = append(lines, cp)
			}
			return lines, nil
		})
	}}
}

// mergeSnapshotters are those that the rows of merges are measured on.
func (e *env) mergeSnapshotters() []string {
	if e.snapshotter == "native" {
		return []string{e.snapshotter}
	}
	return []string{e.snapshotter, "native"}
}

// treeSide is a side with layers that hold files.
type treeSide interface {
	side
	NewTree(ctx context.Context, fill func(dir string) error) (image.Ref, error)
	MergeTrees(ctx context.Context, parents []image.Ref) (image.Ref, error)
	DiffTrees(ctx context.Context, lower, upper image.Ref) (image.Ref, error)
}

const (
	treeLayers = 5
	treeDirs   = 50
	fileSize   = 4 << 10
)

// treeBench has the same layers on both sides, and as plain directories.
type treeBench struct {
	e           *env
	dir         string // what is made stays there until the end: deleting is work that others would wait for
	snapshotter string
	files       int // per layer
	sides       map[string]treeSide
	layers      map[string][]image.Ref
	done        map[string]int // merges and diffs of a side so far
	merges      map[string][]image.Ref
	copies      int
}

// withTrees makes both sides and the directories below dir, calls fn and removes all.
func (e *env) withTrees(ctx context.Context, dir, snapshotter string, fn func(*treeBench) ([]line, error)) (lines []line, err error) {
	if dir, err = os.MkdirTemp(dir, "trees-"); err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(dir)) }()
	x := &treeBench{
		e: e, dir: dir, snapshotter: snapshotter, files: e.scale(5000, 100), sides: map[string]treeSide{}, layers: map[string][]image.Ref{},
		done: map[string]int{}, merges: map[string][]image.Ref{},
	}
	e.logf("  %d layers of %d files, %s", treeLayers, x.files, snapshotter)
	for i := range treeLayers {
		if err := x.fill(i)(filepath.Join(dir, "plain-"+strconv.Itoa(i))); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{sidePeer, sideOurs} {
		s, err := openSide(ctx, name, filepath.Join(dir, name), snapshotter, nil)
		if err != nil {
			return nil, err
		}
		defer func() { err = stderrors.Join(err, s.Close()) }()
		ts, ok := s.(treeSide)
		if !ok {
			return nil, errors.Errorf("%T has no trees", s)
		}
		x.sides[name] = ts
		defer func() { err = stderrors.Join(err, x.release(ctx, name)) }()
		for i := range treeLayers {
			ref, err := ts.NewTree(ctx, x.fill(i))
			if err != nil {
				return nil, err
			}
			x.layers[name] = append(x.layers[name], ref)
		}
	}
	return fn(x)
}

func (x *treeBench) release(ctx context.Context, name string) error {
	var errs []error
	for _, ref := range append(x.merges[name], x.layers[name]...) {
		errs = append(errs, ref.Release(ctx))
	}
	return stderrors.Join(errs...)
}

// fill returns what writes layer i into a directory. The layers have the directories in common.
func (x *treeBench) fill(i int) func(string) error {
	return func(dir string) error {
		for d := range treeDirs {
			if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("dir-%02d", d)), 0o755); err != nil {
				return errors.WithStack(err)
			}
		}
		for f := range x.files {
			data := []byte(strings.Repeat(fmt.Sprintf("%03d %04d\n", i, f), fileSize/9+1)[:fileSize])
			name := filepath.Join(dir, fmt.Sprintf("dir-%02d", f%treeDirs), fmt.Sprintf("file-%d-%04d", i, f))
			if err := os.WriteFile(name, data, 0o644); err != nil {
				return errors.WithStack(err)
			}
		}
		return nil
	}
}

// work words what a time is of.
func (x *treeBench) work(format string) string {
	return fmt.Sprintf(format, treeLayers, x.files) + ", per file of all, " + x.snapshotter
}

// order is the n-th order of the layers. No two merges are of the same: they could share the result.
func order(n int) []int {
	rest := []int{0, 1, 2, 3, 4}
	var out []int
	for k := len(rest); k > 0; k-- {
		i := n % k
		n /= k
		out = append(out, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return out
}

// mergeNext merges the layers in an order that was not there yet.
func (x *treeBench) mergeNext(ctx context.Context, name string) (image.Ref, error) {
	var parents []image.Ref
	for _, i := range order(x.done[name]) {
		parents = append(parents, x.layers[name][i])
	}
	x.done[name]++
	merged, err := x.sides[name].MergeTrees(ctx, parents)
	if err != nil {
		return nil, err
	}
	x.merges[name] = append(x.merges[name], merged)
	return merged, merged.Extract(ctx)
}

// merge times merges of one side.
func (x *treeBench) merge(name string) sample {
	return func(ctx context.Context) (float64, error) {
		if err := x.e.flush(x.dir); err != nil {
			return 0, err
		}
		start := time.Now()
		merged, err := x.mergeNext(ctx, name)
		took := perOp(time.Since(start), treeLayers*x.files)
		if err != nil {
			return 0, err
		}
		return took, x.check(ctx, merged, treeLayers)
	}
}

// diff times differences of one side. Each merge serves for as many as it has layers.
func (x *treeBench) diff(name string) sample {
	n := 0
	var merged image.Ref
	return func(ctx context.Context) (float64, error) {
		var err error
		if n%treeLayers == 0 {
			if merged, err = x.mergeNext(ctx, name); err != nil {
				return 0, err
			}
		}
		lower := x.layers[name][n%treeLayers]
		n++
		if err := x.e.flush(x.dir); err != nil {
			return 0, err
		}
		start := time.Now()
		diff, err := x.sides[name].DiffTrees(ctx, lower, merged)
		if err != nil {
			return 0, err
		}
		x.merges[name] = append(x.merges[name], diff)
		if err := diff.Extract(ctx); err != nil {
			return 0, err
		}
		took := perOp(time.Since(start), treeLayers*x.files)
		return took, x.check(ctx, diff, treeLayers-1)
	}
}

// check counts the files of a result, which are those of some layers.
func (x *treeBench) check(ctx context.Context, ref image.Ref, layers int) error {
	return ref.Mounted(ctx, func(dir string) error {
		files, size, err := image.Tree(dir)
		if want := layers * x.files; err == nil && (files != want || size != int64(want)*fileSize) {
			err = errors.Errorf("the tree has %d files of %d bytes instead of %d", files, size, want)
		}
		return err
	})
}

// copyLine times cp of the directories that a merge has to write: all, or all but the one that an overlay starts on.
func (x *treeBench) copyLine(ctx context.Context, how string) (line, error) {
	from := 0
	if x.snapshotter == "overlayfs" {
		from = 1
	}
	l := line{Work: fmt.Sprintf("cp %s of the %d layers that are written, per file of all", how, treeLayers-from), Unit: unitTime, Target: "for comparison"}
	var err error
	l.Ours, err = x.e.alone(ctx, unitTime, func(ctx context.Context) (float64, error) {
		if err := x.e.flush(x.dir); err != nil {
			return 0, err
		}
		x.copies++
		to := filepath.Join(x.dir, "copy-"+strconv.Itoa(x.copies))
		if err := os.Mkdir(to, 0o755); err != nil {
			return 0, errors.WithStack(err)
		}
		start := time.Now()
		for i := from; i < treeLayers; i++ {
			args := append(strings.Fields(how), filepath.Join(x.dir, "plain-"+strconv.Itoa(i))+"/.", to)
			if out, err := exec.CommandContext(ctx, "cp", args...).CombinedOutput(); err != nil {
				return 0, errors.Wrapf(err, "cp %s: %s", how, out)
			}
		}
		return perOp(time.Since(start), treeLayers*x.files), nil
	})
	return l, err
}
