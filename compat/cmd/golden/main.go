// Command golden writes the golden databases with BuildKit's own code, in the directory compat:
//
//	go run ./cmd/golden
//
// store.db is what BuildKit's metadata package makes of the script of package compat, manager.db
// what its cache manager makes of real layers. Beside each lies a description of its content.
// The IDs in manager.db are random, so it differs from run to run. It needs root for mounting.
package main

import (
	"context"
	stderrors "errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/cache/metadata"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/compat"
	"github.com/layercache/cache/compat/golden"
)

func main() {
	out := flag.String("out", "testdata", "directory of the databases")
	second := flag.String("copy", "../metadata/testdata", "directory of a copy of them, empty for none")
	flag.Parse()
	if err := run(context.Background(), *out, *second); err != nil {
		fmt.Fprintf(os.Stderr, "golden: %+v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, second string) (err error) {
	work, err := os.MkdirTemp("", "golden")
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(work)) }()
	for name, write := range map[string]func(dir, path string) error{
		"store":   writeStore,
		"manager": func(dir, path string) error { return writeManager(ctx, dir, path) },
	} {
		dir := filepath.Join(work, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return errors.WithStack(err)
		}
		path := filepath.Join(dir, "metadata_v2.db")
		if err := write(dir, path); err != nil {
			return errors.WithMessage(err, name)
		}
		if err := keep(ctx, path, filepath.Join(out, name), second); err != nil {
			return errors.WithMessage(err, name)
		}
	}
	return nil
}

// writeStore runs the script.
func writeStore(_, path string) error {
	s, err := metadata.NewStore(path)
	if err != nil {
		return err
	}
	return stderrors.Join(compat.Run(compat.Theirs{Store: s}, compat.Script()), s.Close())
}

// keep compacts a database to base.db and describes it in base.json.
func keep(ctx context.Context, path, base, second string) error {
	if err := compact(path, base+".db"); err != nil {
		return err
	}
	s, err := metadata.NewStore(path)
	if err != nil {
		return err
	}
	content, err := describe(ctx, s)
	if err := stderrors.Join(err, s.Close()); err != nil {
		return err
	}
	if err := content.Save(base + ".json"); err != nil {
		return err
	}
	if second == "" {
		return nil
	}
	for _, ext := range []string{".db", ".json"} {
		dt, err := os.ReadFile(base + ext)
		if err != nil {
			return errors.WithStack(err)
		}
		if err := os.WriteFile(filepath.Join(second, filepath.Base(base)+ext), dt, 0o644); err != nil {
			return errors.WithStack(err)
		}
	}
	return nil
}

// compact writes a copy without free pages.
func compact(from, to string) (err error) {
	src, err := bolt.Open(from, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, src.Close()) }()
	if err := os.RemoveAll(to); err != nil {
		return errors.WithStack(err)
	}
	dst, err := bolt.Open(to, 0o644, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return errors.WithStack(err)
	}
	return stderrors.Join(errors.WithStack(bolt.Compact(dst, src, 0)), errors.WithStack(dst.Close()))
}

// describe reads the content, and searches with BuildKit.
func describe(ctx context.Context, s *metadata.Store) (*golden.Content, error) {
	content, err := golden.Read(s.DB())
	if err != nil {
		return nil, err
	}
	content.Search = map[string][]string{}
	for _, prefix := range compat.Prefixes() {
		items, err := s.Search(ctx, prefix, true)
		if err != nil {
			return nil, err
		}
		ids := []string{}
		for _, it := range items {
			ids = append(ids, it.ID())
		}
		content.Search[prefix] = ids
	}
	return content, nil
}
