package local

import (
	"os"
	"path/filepath"
	"time"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// Facts of a BuildKit worker directory.
const (
	namespace       = "buildkit"
	contentDir      = "content"
	snapshotsDir    = "snapshots"
	mountPoolDir    = "cachemounts"
	recordsDB       = "metadata_v2.db"
	backendDB       = "containerdmeta.db"
	snapshotterDB   = "metadata.db" // below snapshotsDir
	dirMode         = 0o700
	databaseMode    = 0o600
	lockWait        = time.Millisecond // bolt tries once and gives up: its first retry would come later than this
	backendTopLevel = "v1"             // bucket that holds all of containerd's metadata
)

// makeDirs makes the directories that are missing. Those within content/ are listed because the
// content store would make them readable for everybody.
func makeDirs(root string) error {
	for _, dir := range []string{
		contentDir,
		filepath.Join(contentDir, "ingest"),
		filepath.Join(contentDir, "blobs"),
		filepath.Join(contentDir, "blobs", "sha256"),
		snapshotsDir,
		mountPoolDir,
	} {
		if err := os.Mkdir(filepath.Join(root, dir), dirMode); err != nil && !os.IsExist(err) {
			return errors.WithStack(err)
		}
	}
	return nil
}

// openBackendDB opens containerd's metadata with the options that BuildKit uses. They matter:
// changing to a synced free list would write at every open.
func openBackendDB(path string) (_ *bolt.DB, err error) {
	defer recoverDamage(path, &err)
	db, err := bolt.Open(path, databaseMode, &bolt.Options{
		FreelistType:   bolt.FreelistMapType,
		NoFreelistSync: true,
		Timeout:        lockWait,
	})
	return db, errors.Wrapf(err, "open %s", path)
}

// recoverDamage turns a panic of bolt, which is how it reports damaged pages, into an error.
func recoverDamage(path string, err *error) {
	if r := recover(); r != nil {
		*err = errors.Wrapf(ErrForeign, "%s is damaged: %v", path, r)
	}
}
