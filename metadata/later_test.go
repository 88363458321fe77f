package metadata

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// manualTimers runs the functions of timers when the test says so.
type manualTimers struct {
	mu      sync.Mutex
	pending []func()
	started int
}

func (m *manualTimers) afterFunc(d time.Duration, fn func()) func() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.started++
	m.pending = append(m.pending, fn)
	at := m.started
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.pending) == 0 || at != m.started {
			return false
		}
		m.pending = nil
		return true
	}
}

// fire runs what is due and reports whether anything was.
func (m *manualTimers) fire() bool {
	m.mu.Lock()
	fns := m.pending
	m.pending = nil
	m.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
	return len(fns) > 0
}

func (m *manualTimers) running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pending) > 0
}

// TestLater coalesces, shows pending values at once, and runs a timer only while there are any.
// spec META-6, MV-1
func TestLater(t *testing.T) {
	timers := &manualTimers{}
	s, db := newStore(t, WithAfterFunc(timers.afterFunc), WithFlushInterval(time.Hour), nil)
	require.NoError(t, s.Write(create("a")))
	require.NoError(t, s.Write(create("b")))
	a, _ := s.Get("a")
	n := db.committed()
	require.False(t, timers.running())
	require.NoError(t, s.Later("a", nil))
	require.False(t, timers.running())
	for i := range 10 {
		require.NoError(t, s.Later("a", map[string]any{"count": i, "used": i * 100}))
		require.NoError(t, s.Later("b", map[string]any{"count": i}))
		require.NoError(t, s.Later("unknown", map[string]any{"count": i}))
	}
	require.Equal(t, 1, timers.started)
	require.Equal(t, "9", string(a.Get("count").Value))
	require.Equal(t, []string{"count", "k", "used"}, a.Keys())
	unknown, _ := s.Get("unknown")
	require.Nil(t, unknown.Get("count"))
	require.Equal(t, n, db.committed())
	require.True(t, timers.fire())
	require.Equal(t, n+1, db.committed())
	require.False(t, timers.running())
	require.Equal(t, "900", string(a.Get("used").Value))
	require.Equal(t, []string{"a", "b"}, allIDs(t, s))
	require.NoError(t, s.Flush())
	require.Equal(t, n+1, db.committed())

	// Flush stops the timer; a value of the record's next life is not written by this one.
	require.NoError(t, s.Later("a", map[string]any{"count": 10}))
	require.True(t, timers.running())
	require.NoError(t, s.Flush())
	require.False(t, timers.running())
	require.NoError(t, s.Later("a", map[string]any{"count": 11}))
	require.NoError(t, s.Clear("a"))
	require.False(t, timers.running())
	require.Nil(t, a.Get("count"))
	require.NoError(t, s.Write(create("a")))
	require.NoError(t, s.Flush())
	a, _ = s.Get("a")
	require.Nil(t, a.Get("count"))
}

// TestLaterOrder keeps the order of a pending value and a direct write of the same key.
// spec META-15
func TestLaterOrder(t *testing.T) {
	s, db := newStore(t, WithFlushInterval(time.Hour))
	require.NoError(t, s.Write(create("a")))
	a, _ := s.Get("a")
	require.NoError(t, s.Later("a", map[string]any{"n": 1, "m": 1}))
	n := db.committed()
	require.NoError(t, a.GetAndSetValue("n", func(v *Value) (*Value, error) {
		require.Equal(t, "1", string(v.Value))
		return NewValue(2)
	}))
	require.NoError(t, s.Flush())
	require.Equal(t, n+1, db.committed())
	require.Equal(t, "2", string(a.Get("n").Value))
	require.Equal(t, "1", string(a.Get("m").Value))
	require.NoError(t, s.Later("a", map[string]any{"n": 3}))
	require.NoError(t, s.Write(func(w *Writer) error {
		r, err := w.Row("a")
		if err != nil {
			return err
		}
		require.Equal(t, "3", string(r.Get("n").Value))
		return r.Clear("n")
	}))
	require.Nil(t, a.Get("n"))
	// An index goes with the value that a later one replaces.
	require.NoError(t, s.Later("a", map[string]any{"k": "new"}))
	require.NoError(t, s.Flush())
	require.Empty(t, entries(t, s))
}

// TestLaterFails keeps what could not be written and tries again.
// fault 21
func TestLaterFails(t *testing.T) {
	timers := &manualTimers{}
	s, db := newStore(t, WithAfterFunc(timers.afterFunc))
	require.NoError(t, s.Write(create("a")))
	require.NoError(t, s.Later("a", map[string]any{"n": 1}))
	disk := errors.New("disk full")
	db.failWith(disk)
	require.ErrorIs(t, s.Flush(), disk)
	require.True(t, timers.running())
	require.True(t, timers.fire())
	require.True(t, timers.running())
	db.failWith(nil)
	n := db.committed()
	require.True(t, timers.fire())
	require.Equal(t, n+1, db.committed())
	require.False(t, timers.running())
}

// TestLaterClose writes on Close what no timer did, also one that has just fired.
func TestLaterClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	timers := &manualTimers{}
	s, err := NewStore(path, WithAfterFunc(timers.afterFunc))
	require.NoError(t, err)
	require.NoError(t, s.Write(create("a")))
	require.NoError(t, s.Later("a", map[string]any{"n": 1}))
	require.NoError(t, s.Close())
	require.False(t, timers.running())
	require.ErrorIs(t, s.Later("a", map[string]any{"n": 2}), ErrClosed)
	require.ErrorIs(t, s.Flush(), ErrClosed)

	s, err = NewStore(path, WithFlushInterval(time.Microsecond))
	require.NoError(t, err)
	a, _ := s.Get("a")
	require.Equal(t, "1", string(a.Get("n").Value))
	for i := range 100 {
		require.NoError(t, s.Later("a", map[string]any{"n": i}))
	}
	require.NoError(t, s.Close())
	s, err = NewStore(path)
	require.NoError(t, err)
	a, _ = s.Get("a")
	require.Equal(t, "99", string(a.Get("n").Value))
	require.NoError(t, s.Close())
}
