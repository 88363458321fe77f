package metadata

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// For conditions that another goroutine brings about.
const (
	testTimeout = 30 * time.Second
	testPoll    = time.Millisecond
)

// memoryDir returns a new directory, on a filesystem in memory where there is one: for tests that
// open hundreds of files and would only wait for the disk.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "metadata")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// countingDB counts the write transactions that commit and can hold the next ones up or make
// them fail.
type countingDB struct {
	DB
	mu      sync.Mutex
	begun   int
	commits int
	gate    chan struct{} // if set, a write transaction waits for a receive
	waiting chan struct{} // told that one waits
	fail    error         // what the commit fails with
}

func (c *countingDB) Update(fn func(*bolt.Tx) error) error {
	c.mu.Lock()
	gate, waiting, fail := c.gate, c.waiting, c.fail
	c.begun++
	c.mu.Unlock()
	err := c.DB.Update(func(tx *bolt.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		if gate != nil {
			waiting <- struct{}{}
			<-gate
		}
		return fail
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.commits++
	}
	return err
}

func (c *countingDB) committed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commits
}

func (c *countingDB) failWith(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

// newStore opens a store in a new directory that counts its transactions.
func newStore(t testing.TB, opts ...Option) (*Store, *countingDB) {
	t.Helper()
	return openCounting(t, filepath.Join(t.TempDir(), "metadata_v2.db"), opts...)
}

func openCounting(t testing.TB, path string, opts ...Option) (*Store, *countingDB) {
	t.Helper()
	f, _, err := openFile(path, newOptions(nil))
	require.NoError(t, err)
	db := &countingDB{DB: f}
	s := NewStoreWithDB(db, opts...)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s, db
}

// set writes values of one record, creating it if need be.
func set(t testing.TB, s *Store, id, key string, value any, index string) {
	t.Helper()
	it, _ := s.Get(id)
	require.NoError(t, it.Update(func(b *bolt.Bucket) error {
		v, err := NewValue(value)
		if err != nil {
			return err
		}
		v.Index = index
		return it.SetValue(b, key, v)
	}))
}

// ids returns the IDs of items in their order.
func ids(items []*StorageItem) []string {
	out := []string{}
	for _, it := range items {
		out = append(out, it.ID())
	}
	return out
}

// dump returns the whole database, bucket paths and keys joined by NUL, nil values as "\x00".
func dump(t testing.TB, db Transactor) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		var walk func(path string, b *bolt.Bucket) error
		walk = func(path string, b *bolt.Bucket) error {
			out[path] = "bucket"
			return b.ForEach(func(k, v []byte) error {
				if v == nil {
					return walk(path+"\x00"+string(k), b.Bucket(k))
				}
				out[path+"\x00"+string(k)] = "=" + string(v)
				return nil
			})
		}
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error { return walk(string(name), b) })
	}))
	return out
}
