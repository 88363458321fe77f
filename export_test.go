package cache

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// FreeSpace is what the manager takes for the free space of a directory.
func FreeSpace(t *testing.T, dir string) int64 {
	t.Helper()
	n, err := freeSpace(dir)
	require.NoError(t, err)
	return n
}

// EnterGraph takes and releases the mutex of a manager's record graph.
func EnterGraph(m Manager) { m.(*manager).g.Enter() } //nolint:errcheck,forcetypeassert // a panic is what a wrong type deserves

// SetMayMount replaces how a manager's mount pool finds out whether the process may mount.
func SetMayMount(m Manager, mayMount func() error) {
	m.(*manager).pool.sys.mayMount = mayMount //nolint:errcheck,forcetypeassert // a panic is what a wrong type deserves
}

// SetPoolUnmount replaces how a manager's mount pool unmounts, until restore is called.
func SetPoolUnmount(m Manager, unmount func(dir string, detach bool) error) (restore func()) {
	sys := &m.(*manager).pool.sys //nolint:errcheck,forcetypeassert // a panic is what a wrong type deserves
	before := sys.unmount
	sys.unmount = unmount
	return func() { sys.unmount = before }
}

// Exporters counts who waits for a blob to be made.
func Exporters(m Manager) int {
	own := m.(*manager) //nolint:errcheck,forcetypeassert // a panic is what a wrong type deserves
	return own.packs.Waiting() + own.conversions.Waiting()
}

// Measuring counts who waits for sizes to be measured.
func Measuring(m Manager) int {
	return m.(*manager).sizes.Waiting() //nolint:errcheck,forcetypeassert // a panic is what a wrong type deserves
}

// SetPruneBatch replaces how many records Prune deletes in one go.
func SetPruneBatch(m Manager, n int) {
	m.(*manager).pruneBatch = n //nolint:errcheck,forcetypeassert // a panic is what a wrong type deserves
}

// Quiesce waits for work that goes on though nobody waits for it any more. Nothing may begin meanwhile.
func Quiesce(m Manager) {
	own := m.(*manager) //nolint:errcheck,forcetypeassert // a panic is what a wrong type deserves
	own.conversions.Wait()
	own.packs.Wait()
	own.listings.Wait()
	own.extractions.Wait()
	own.pulls.Wait()
	own.life.mu.Lock()
	defer own.life.mu.Unlock()
	for own.life.running > 0 {
		own.life.idle.Wait()
	}
}
