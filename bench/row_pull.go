package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/bench/image"
)

// pullRow is row 17: an image from a server on this machine, down to its extracted layers.
func pullRow() row {
	return row{17, "pull and extract an image", func(ctx context.Context, e *env) (lines []line, err error) {
		dir, err := os.MkdirTemp(e.dir, "image-")
		if err != nil {
			return nil, errors.WithStack(err)
		}
		defer func() { err = stderrors.Join(err, os.RemoveAll(dir)) }()
		spec := image.Spec{Layers: 20, MinLayer: int64(e.scale(5<<20, 50<<10)), MaxLayer: int64(e.scale(30<<20, 300<<10))}
		e.logf("  making an image")
		img, err := image.Make(dir, spec)
		if err != nil {
			return nil, err
		}
		server, err := image.Serve(dir)
		if err != nil {
			return nil, err
		}
		defer func() { err = stderrors.Join(err, server.Close()) }()
		work := fmt.Sprintf("GetByBlob + Extract of %d layers, %d MB as gzip, %d MB and %d files unpacked, %s",
			len(img.Layers), img.Blobs/1e6, img.Bytes/1e6, img.Files, e.snapshotter)
		e.logf("  %s", work)
		l := line{Work: work, Unit: unitTime, MinRatio: 1.4, Target: ">= 1.4x"}
		// Less than the wall time, it does not depend on what else the machine does, and the disk.
		cpu := line{Work: "CPU time of the same, that of the server included", Unit: unitTime, Target: "for comparison"}
		p := puller{e: e, img: img, server: server, dir: dir}
		var peerCPU, oursCPU []float64
		l.Peer, l.Ours, err = e.alternate(ctx, unitTime, p.sample(sidePeer, &peerCPU), p.sample(sideOurs, &oursCPU))
		if err != nil {
			return nil, err
		}
		cpu.Peer, cpu.Ours = median(peerCPU[1:]), median(oursCPU[1:]) // the first of each warms up
		return []line{l, cpu}, nil
	}}
}

// puller pulls an image into new caches.
type puller struct {
	e      *env
	img    *image.Image
	server *image.Server
	// dir is where the caches stay until the end: on the machine this was written on, files were slow to make for
	// minutes after many had been deleted.
	dir string
}

// sample times the image's way into an empty cache of one side, and adds the CPU time to cpu.
func (p puller) sample(name string, cpu *[]float64) sample {
	return func(ctx context.Context) (took float64, err error) {
		dir, err := os.MkdirTemp(p.dir, "pull-")
		if err != nil {
			return 0, errors.WithStack(err)
		}
		s, err := openSide(ctx, name, filepath.Join(dir, "cache"), p.e.snapshotter, nil)
		if err != nil {
			return 0, err
		}
		defer func() { err = stderrors.Join(err, s.Close()) }()
		ls, err := layersOf(s)
		if err != nil {
			return 0, err
		}
		// What the sample before has left to be written must not be waited for in this one.
		if err := p.e.flush(dir); err != nil {
			return 0, err
		}
		runtime.GC()
		before, err := cpuTime()
		if err != nil {
			return 0, err
		}
		start := time.Now()
		ref, err := ls.GetChain(ctx, p.img.Layers, p.server)
		if err != nil {
			return 0, err
		}
		if err := ref.Extract(ctx); err != nil {
			return 0, stderrors.Join(err, ref.Release(ctx))
		}
		took = perOp(time.Since(start), 1)
		after, err := cpuTime()
		if err != nil {
			return 0, stderrors.Join(err, ref.Release(ctx))
		}
		*cpu = append(*cpu, perOp(after-before, 1))
		err = p.check(ctx, ref)
		if err = stderrors.Join(err, ref.Release(ctx)); err != nil {
			return 0, err
		}
		return took, checkSide(ctx, s, len(p.img.Layers))
	}
}

// check compares the tree with the image's.
func (p puller) check(ctx context.Context, ref image.Ref) error {
	return ref.Mounted(ctx, func(dir string) error {
		files, size, err := image.Tree(dir)
		if err == nil && (files != p.img.Files || size != p.img.Bytes) {
			err = errors.Errorf("the tree has %d files of %d bytes instead of %d of %d", files, size, p.img.Files, p.img.Bytes)
		}
		return err
	})
}

// flush waits until the filesystem of dir is on disk, so that a sample does not pay for what was written before it. A quick run
// has no times to keep clean, and would wait for what all others on the machine write.
func (e *env) flush(dir string) error {
	if e.quick {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return errors.WithStack(err)
	}
	return stderrors.Join(errors.Wrap(unix.Syncfs(int(f.Fd())), "syncfs"), f.Close())
}

// cpuTime is what this process has used so far, in user mode and in the kernel.
func cpuTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, errors.Wrap(err, "getrusage")
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
