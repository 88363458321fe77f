package local

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot"
)

// shortDir holds short names of snapshots' directories: symbolic links, named by the snapshots' numbers to the base of 36. A chain of
// hundreds of layers, with numbers of six digits, would not fit into the one page that the options of a mount may take
// (fault 38). It is made when it is needed first; containerd's snapshotter does not look at it.
const shortDir = "l"

// othersOptions is how many bytes of options others may add to a mount.
const othersOptions = 256

// shortNames hands out the links of a snapshotter's directory.
type shortNames struct {
	root string
	// known are the numbers that have a link.
	known sync.Map
}

// clean removes links to what is gone. Numbers are never given out again, so that one that stays is no danger.
func (s *shortNames) clean() error {
	links, err := os.ReadDir(filepath.Join(s.root, shortDir))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return errors.WithStack(err)
	}
	for _, l := range links {
		link := filepath.Join(s.root, shortDir, l.Name())
		if _, err := os.Stat(link); !os.IsNotExist(err) {
			continue
		}
		if err := os.Remove(link); err != nil && !os.IsNotExist(err) {
			return errors.WithStack(err)
		}
	}
	return nil
}

// shorten puts the links in place of lower directories if the options would not fit otherwise. Mounts that fit stay as they are.
func (s *shortNames) shorten(ctx context.Context, mounts []mount.Mount) []mount.Mount {
	if len(mounts) != 1 {
		return mounts
	}
	m := mounts[0]
	larger := m
	larger.Options = append(m.Options[:len(m.Options):len(m.Options)], strings.Repeat("x", othersOptions))
	if snapshot.CheckMounts([]mount.Mount{larger}) == nil {
		return mounts
	}
	out := make([]string, len(m.Options))
	for i, o := range m.Options {
		out[i] = o
		list, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			continue
		}
		dirs := strings.Split(list, ":")
		for k, d := range dirs {
			link, err := s.link(d)
			if err != nil { // then the caller gets to know that there are too many
				log.G(ctx).WithError(err).Warn("layer cache: no short name for a layer's directory")
				return mounts
			}
			dirs[k] = link
		}
		out[i] = "lowerdir=" + strings.Join(dirs, ":")
	}
	m.Options = out
	return []mount.Mount{m}
}

// link returns the short name of a directory of the snapshotter's, root/snapshots/NUMBER/fs.
func (s *shortNames) link(dir string) (string, error) {
	rel, err := filepath.Rel(filepath.Join(s.root, "snapshots"), dir)
	if err != nil {
		return "", errors.WithStack(err)
	}
	number, rest, _ := strings.Cut(rel, "/")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || rest != "fs" {
		return "", errors.Errorf("%q is no snapshot's directory", dir)
	}
	link := filepath.Join(s.root, shortDir, strconv.FormatUint(n, 36))
	if _, ok := s.known.Load(n); ok {
		return link, nil
	}
	target := filepath.Join("..", "snapshots", number, "fs")
	err = os.Symlink(target, link)
	if os.IsNotExist(err) {
		if err = os.Mkdir(filepath.Dir(link), dirMode); err == nil || os.IsExist(err) {
			err = os.Symlink(target, link)
		}
	}
	if os.IsExist(err) {
		have, rerr := os.Readlink(link)
		if err = rerr; err == nil && have != target {
			err = errors.Errorf("%q leads to %q", link, have)
		}
	}
	if err != nil {
		return "", errors.WithStack(err)
	}
	s.known.Store(n, struct{}{})
	return link, nil
}

// Prepare, View and Mounts are containerd's, with short names where there are many layers.
func (s *reversibleOverlayfs) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.Snapshotter.Prepare(ctx, key, parent, opts...)
	return s.short.shorten(ctx, mounts), err
}

func (s *reversibleOverlayfs) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := s.Snapshotter.View(ctx, key, parent, opts...)
	return s.short.shorten(ctx, mounts), err
}

func (s *reversibleOverlayfs) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	mounts, err := s.Snapshotter.Mounts(ctx, key)
	return s.short.shorten(ctx, mounts), err
}
