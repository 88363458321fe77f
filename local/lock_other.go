//go:build !unix

package local

import (
	"os"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// lockDir only checks that dir can be opened: on these systems the locks that bolt takes on the
// databases are what keeps a second process out.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	return f, errors.WithStack(err)
}

// lockFile opens a database for reading. That nobody has it open for writing is only looked at.
func lockFile(path string) (*os.File, error) {
	if err := readDB(path, func(*bolt.Tx) error { return nil }); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	return f, errors.WithStack(err)
}

// unlock leaves it to the closing of the file.
func unlock(*os.File) {}
