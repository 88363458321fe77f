package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"

	"github.com/pkg/errors"
)

// Each cache is worked on in a process of its own: its heap is nobody else's, and a process that counts its system calls
// cannot stop to.

// childEnv holds the request in such a process.
const childEnv = "LAYERCACHE_SCALE_RUN"

// request asks for the figures of one cache.
type request struct {
	Dir, Snapshotter string
	Records          int
	// By is one of prunes.
	By string
	// Profiles is a directory, "" for no profiles.
	Profiles string
}

// runChild is such a process.
func runChild(ctx context.Context, text string, out io.Writer) error {
	var r request
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return errors.Wrap(err, childEnv)
	}
	f, err := work(ctx, r)
	if err != nil {
		return err
	}
	return errors.WithStack(json.NewEncoder(out).Encode(f))
}

// profiled runs fn under a CPU profile, if there are to be any.
func (r request) profiled(phase string, fn func() error) (err error) {
	if r.Profiles == "" {
		return fn()
	}
	file, err := os.Create(r.profile(phase + ".cpu"))
	if err != nil {
		return errors.WithStack(err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return errors.WithStack(err)
	}
	err = fn()
	pprof.StopCPUProfile()
	if cerr := file.Close(); err == nil {
		err = errors.WithStack(cerr)
	}
	return err
}

// heapProfile writes down what is on the heap, if there are to be profiles.
func (r request) heapProfile(phase string) error {
	if r.Profiles == "" {
		return nil
	}
	file, err := os.Create(r.profile(phase + ".heap"))
	if err != nil {
		return errors.WithStack(err)
	}
	err = pprof.WriteHeapProfile(file)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return errors.WithStack(err)
}

func (r request) profile(name string) string {
	return filepath.Join(r.Profiles, fmt.Sprintf("%d-%s-%s", r.Records, r.By, name))
}
