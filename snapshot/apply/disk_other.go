//go:build !linux

package apply

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/pkg/errors"
)

// disk is a tree: where the system cannot sync a filesystem, every file is, and nothing is shared.
type disk struct {
	id   any
	path string
}

func openDisk(path string) (*disk, error) {
	d := &disk{path: path}
	d.id = d
	return d, nil
}

func (d *disk) sync(ctx context.Context) error {
	flag := os.O_RDONLY
	if runtime.GOOS == "windows" { // syncs what is open for writing only, and no directories
		flag = os.O_RDWR
	}
	return errors.WithStack(filepath.WalkDir(d.path, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !e.Type().IsRegular() && (!e.IsDir() || flag != os.O_RDONLY) {
			return err
		}
		f, err := os.OpenFile(path, flag, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Sync()
	}))
}

func (d *disk) close() {}
