package main

import (
	"context"
	stderrors "errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/bench/image"
	"github.com/layercache/cache/bench/measure"
)

// blobKinds are the compressions of row 16 and what is asked of them.
var blobKinds = []struct {
	name  string
	ratio float64
}{{"uncompressed", 1.5}, {"gzip", 2}, {"zstd", 1}}

// blobRow is row 16: packing a layer.
func blobRow() row {
	return row{16, "Blob of a layer", func(ctx context.Context, e *env) ([]line, error) {
		var lines []line
		for _, snapshotter := range e.mergeSnapshotters() {
			more, err := e.withBlobs(ctx, snapshotter)
			if err != nil {
				return nil, err
			}
			lines = append(lines, more...)
		}
		return lines, nil
	}}
}

// blobSide is a side that packs layers.
type blobSide interface {
	side
	NewTree(ctx context.Context, fill func(dir string) error) (image.Ref, error)
	Blob(ctx context.Context, layer image.Ref, kind string) (desc ocispecs.Descriptor, diffID string, err error)
}

// blobBench packs the same layers on both sides, each layer once.
type blobBench struct {
	e     *env
	dir   string
	files int
	sides map[string]blobSide
	kind  string
	done  map[string]int // layers of a side so far
	// diffIDs are those of the layers that a side has packed first, by their number. The other side's must be the same.
	diffIDs map[int]string
	sizes   map[string]int64 // of the last blob of each side
}

// withBlobs opens both sides and measures all compressions.
func (e *env) withBlobs(ctx context.Context, snapshotter string) (lines []line, err error) {
	dir, err := os.MkdirTemp(e.dir, "blobs-")
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(dir)) }()
	x := &blobBench{e: e, dir: dir, files: e.scale(5000, 100), sides: map[string]blobSide{}, done: map[string]int{}, diffIDs: map[int]string{}, sizes: map[string]int64{}}
	for _, name := range []string{sidePeer, sideOurs} {
		s, err := openSide(ctx, name, filepath.Join(dir, name), snapshotter, nil)
		if err != nil {
			return nil, err
		}
		defer func() { err = stderrors.Join(err, s.Close()) }()
		bs, ok := s.(blobSide)
		if !ok {
			return nil, errors.Errorf("%T packs nothing", s)
		}
		x.sides[name] = bs
	}
	for _, kind := range blobKinds {
		x.kind = kind.name
		l := line{
			Work: fmt.Sprintf("Blob of a layer of %d files of 4 KiB, %s, per file, %s", x.files, kind.name, snapshotter),
			Unit: unitTime, MinRatio: kind.ratio, Target: fmt.Sprintf(">= %sx", measure.Significant(kind.ratio)),
		}
		if l.Peer, l.Ours, err = e.alternate(ctx, unitTime, x.pack(sidePeer), x.pack(sideOurs)); err != nil {
			return nil, err
		}
		bytes := float64(x.files) * fileSize
		e.logf("  %s, %s: MB of files per second: peer %.0f, ours %.0f; size of blob to files: peer %.3f, ours %.3f", snapshotter, kind.name,
			fileSize/l.Peer*1e3, fileSize/l.Ours*1e3, float64(x.sizes[sidePeer])/bytes, float64(x.sizes[sideOurs])/bytes)
		lines = append(lines, l)
	}
	return lines, nil
}

// pack times the blobs of one side. Every sample is of a layer that was not there before.
func (x *blobBench) pack(name string) sample {
	return func(ctx context.Context) (took float64, err error) {
		n := x.done[name]
		x.done[name]++
		ref, err := x.sides[name].NewTree(ctx, x.fill(n))
		if err != nil {
			return 0, err
		}
		defer func() { err = stderrors.Join(err, ref.Release(ctx)) }()
		if err := x.e.flush(x.dir); err != nil {
			return 0, err
		}
		start := time.Now()
		desc, diffID, err := x.sides[name].Blob(ctx, ref, x.kind)
		took = perOp(time.Since(start), x.files)
		if err != nil {
			return 0, err
		}
		x.sizes[name] = desc.Size
		return took, x.check(n, desc, diffID)
	}
}

// check fails unless both sides packed the same archive.
func (x *blobBench) check(n int, desc ocispecs.Descriptor, diffID string) error {
	if x.diffIDs[n] == "" {
		x.diffIDs[n] = diffID
	}
	suffix := map[string]string{"uncompressed": ".tar", "gzip": "+gzip", "zstd": "+zstd"}[x.kind]
	switch {
	case diffID == "" || diffID != x.diffIDs[n]:
		return errors.Errorf("layer %d has diff ID %q on one side and %q on the other", n, x.diffIDs[n], diffID)
	case !strings.HasSuffix(desc.MediaType, suffix):
		return errors.Errorf("layer %d is %q and should be %s", n, desc.MediaType, x.kind)
	case x.kind == "uncompressed" && desc.Digest.String() != diffID:
		return errors.Errorf("layer %d is not compressed, and its digest %s is not its diff ID %s", n, desc.Digest, diffID)
	}
	return nil
}

// fill returns what writes layer n into a directory: text, which gzip makes about a third of, with times that are the same on both sides.
func (x *blobBench) fill(n int) func(string) error {
	return func(dir string) error {
		rnd := rand.New(rand.NewPCG(uint64(n), 16)) //nolint:gosec // the same each time
		words := make([]string, 1000)
		for i := range words {
			word := make([]byte, 2+rnd.IntN(9))
			for j := range word {
				word[j] = byte('a' + rnd.IntN(26))
			}
			words[i] = string(word)
		}
		stamp := time.Unix(1_700_000_000, 0)
		for d := range treeDirs {
			if err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("dir-%02d", d)), 0o755); err != nil {
				return errors.WithStack(err)
			}
		}
		for f := range x.files {
			var text strings.Builder
			for text.Len() < fileSize {
				text.WriteString(words[rnd.IntN(len(words))] + " ")
			}
			name := filepath.Join(dir, fmt.Sprintf("dir-%02d", f%treeDirs), fmt.Sprintf("file-%04d", f))
			err := os.WriteFile(name, []byte(text.String()[:fileSize]), 0o644)
			if err == nil {
				err = os.Chtimes(name, stamp, stamp)
			}
			if err != nil {
				return errors.WithStack(err)
			}
		}
		for d := range treeDirs {
			if err := os.Chtimes(filepath.Join(dir, fmt.Sprintf("dir-%02d", d)), stamp, stamp); err != nil {
				return errors.WithStack(err)
			}
		}
		return nil
	}
}
