package containerd

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/pkg/errors"
)

// bindingFile is the file in the directory that says what the records belong to.
const bindingFile = "layercache.backend"

// binding is what records belong to.
type binding struct {
	// Daemon is the UUID that containerd keeps in its root directory.
	Daemon      string `json:"daemon"`
	Namespace   string `json:"namespace"`
	Snapshotter string `json:"snapshotter"`
}

// check compares the binding with the one stored in dir. If there is none it returns false.
func (b binding) check(dir string, adopt bool) (stored bool, err error) {
	name := filepath.Join(dir, bindingFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, errors.WithStack(err)
	}
	var found binding
	err = json.Unmarshal(text, &found)
	switch {
	case adopt:
		return found == b, nil
	case err != nil:
		return false, errors.Wrapf(ErrBackend, "%s cannot be read: %v", name, err)
	case found != b:
		return false, errors.Wrapf(ErrBackend, "stored is daemon %q, namespace %q, snapshotter %q, and this is daemon %q, namespace %q, snapshotter %q",
			found.Daemon, found.Namespace, found.Snapshotter, b.Daemon, b.Namespace, b.Snapshotter)
	}
	return true, nil
}

// store writes the binding to dir: it is there as a whole or not at all.
func (b binding) store(dir string) (err error) {
	text, err := json.Marshal(b)
	if err != nil {
		return errors.WithStack(err)
	}
	f, err := os.CreateTemp(dir, bindingFile+".*")
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that began it is the one to tell
		}
	}()
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(os.Rename(f.Name(), filepath.Join(dir, bindingFile)))
}
