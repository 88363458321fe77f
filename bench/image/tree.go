package image

import (
	"io/fs"
	"path/filepath"

	"github.com/pkg/errors"
)

// Tree counts the regular files of a tree and their bytes.
func Tree(dir string) (files int, size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		files++
		size += info.Size()
		return nil
	})
	return files, size, errors.WithStack(err)
}
