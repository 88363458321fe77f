package snapshottest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tree describes every entry below a root by its slash-separated path.
type tree map[string]string

// readTree describes what is below root: kind, permissions (where the system has them), content, and the time
// of files.
func readTree(t *testing.T, root string) tree {
	t.Helper()
	out := tree{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		s, err := describe(path, fi)
		if err != nil {
			return err
		}
		out[filepath.ToSlash(rel)] = s
		return nil
	}))
	return out
}

func describe(path string, fi fs.FileInfo) (string, error) {
	perm := fi.Mode().Perm()
	if runtime.GOOS == "windows" {
		perm = 0
	}
	switch {
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return "-> " + target, err
	case fi.IsDir():
		return fmt.Sprintf("dir %o", perm), nil
	case fi.Mode().IsRegular():
		data, err := os.ReadFile(path)
		return fmt.Sprintf("file %o %d %q", perm, fi.ModTime().UnixNano(), data), err
	}
	return fi.Mode().Type().String(), nil
}

// fileTime is the time of all files the suite writes: layers must keep it, to the nanosecond.
var fileTime = time.Date(2020, 2, 20, 20, 20, 20, 123456789, time.UTC)

// write makes the file root/name, whose directory exists.
func write(t *testing.T, root, name, content string) {
	t.Helper()
	path := filepath.Join(root, filepath.FromSlash(name))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	require.NoError(t, os.Chmod(path, 0o644)) // whatever the umask
	require.NoError(t, os.Chtimes(path, fileTime, fileTime))
}

// mkdir makes the directory root/name.
func mkdir(t *testing.T, root, name string) {
	t.Helper()
	path := filepath.Join(root, filepath.FromSlash(name))
	require.NoError(t, os.Mkdir(path, 0o755))
	require.NoError(t, os.Chmod(path, 0o755))
}

// remove deletes root/name with all that is in it.
func remove(t *testing.T, root, name string) {
	t.Helper()
	path := filepath.Join(root, filepath.FromSlash(name))
	_, err := os.Lstat(path)
	require.NoError(t, err, "there is nothing to remove")
	require.NoError(t, os.RemoveAll(path))
}
