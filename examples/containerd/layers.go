package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	stderrors "errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/containerd"
	"github.com/layercache/cache/snapshot"
)

const (
	// keyName is under which a record remembers the hash of its content,
	keyName = "example.key"
	// indexName and that hash, under which it is found.
	indexName = "example.key:"
)

// keep makes a layer of every entry of a directory, or finds it, and puts them together.
func keep(ctx context.Context, out io.Writer, c *containerd.Cache, source string) (err error) {
	entries, err := os.ReadDir(source)
	if err != nil {
		return errors.WithStack(err)
	}
	var layers []cache.ImmutableRef
	defer func() {
		for _, ref := range layers {
			err = stderrors.Join(err, ref.Release(context.WithoutCancel(ctx)))
		}
	}()
	for _, e := range entries {
		ref, result, err := layer(ctx, c, filepath.Join(source, e.Name()))
		if err != nil {
			return errors.Wrapf(err, "layer of %s", e.Name())
		}
		layers = append(layers, ref)
		fmt.Fprintf(out, "layer   %-4s %s\n", result, e.Name())
	}
	merged, err := c.Merge(ctx, layers, nil, cache.WithDescription("all of "+source))
	if err != nil || merged == nil { // an empty directory
		return err
	}
	layers = append(layers, merged)
	n := -1 // the root
	err = withMounted(ctx, merged, true, func(root string) error {
		return filepath.WalkDir(root, func(_ string, _ fs.DirEntry, err error) error {
			n++
			return err
		})
	})
	fmt.Fprintf(out, "merge   %d entries\n", n)
	return err
}

// layer returns a layer that holds path alone, and whether it was found ("hit") or made ("miss").
func layer(ctx context.Context, c *containerd.Cache, path string) (_ cache.ImmutableRef, result string, err error) {
	key, err := hash(path)
	if err != nil {
		return nil, "", err
	}
	found, err := c.Search(ctx, indexName+key, false)
	if err != nil {
		return nil, "", err
	}
	for _, md := range found {
		ref, err := c.Get(ctx, md.ID(), nil)
		if !cache.IsNotFound(err) { // else it was pruned since
			return ref, "hit", err
		}
	}
	mut, err := c.New(ctx, nil, nil, cache.WithDescription(path))
	if err != nil {
		return nil, "", err
	}
	err = withMounted(ctx, mut, false, func(root string) error { return copyTo(filepath.Join(root, filepath.Base(path)), path) })
	if err != nil {
		return nil, "", stderrors.Join(err, mut.Release(context.WithoutCancel(ctx)))
	}
	ref, err := mut.Commit(ctx)
	if err != nil {
		return nil, "", stderrors.Join(err, mut.Release(context.WithoutCancel(ctx)))
	}
	if err = ref.Finalize(ctx); err == nil { // only then is it found by another process
		err = ref.SetString(keyName, key, indexName+key)
	}
	if err != nil {
		return nil, "", stderrors.Join(err, ref.Release(context.WithoutCancel(ctx)))
	}
	return ref, "miss", nil
}

// withMounted calls fn with the directory that a layer is mounted on.
func withMounted(ctx context.Context, ref cache.Mountable, readonly bool, fn func(root string) error) (err error) {
	mountable, err := ref.Mount(ctx, readonly, nil)
	if err != nil {
		return err
	}
	mounter := snapshot.LocalMounter(mountable)
	root, err := mounter.Mount()
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, mounter.Unmount()) }()
	return fn(root)
}

// hash is that of a tree's names and contents.
func hash(path string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(path, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(path, name)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %s\n", filepath.Join(filepath.Base(path), rel), e.Type())
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), errors.WithStack(err)
}

// copyTo copies a file or a directory. Links are not followed, and left out.
func copyTo(to, from string) error {
	info, err := os.Lstat(from)
	switch {
	case err != nil:
		return errors.WithStack(err)
	case info.IsDir():
		return errors.WithStack(os.CopyFS(to, os.DirFS(from)))
	case !info.Mode().IsRegular():
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(os.WriteFile(to, data, info.Mode().Perm()))
}
