//go:build !unix

package local

import (
	"os"

	"github.com/pkg/errors"
)

// lockDir only checks that dir can be opened: on these systems the locks that bolt takes on the
// databases are what keeps a second process out.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	return f, errors.WithStack(err)
}

// unlock leaves it to the closing of the file.
func unlock(*os.File) {}
