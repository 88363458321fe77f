//go:build unix

package local

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A copy of the descriptor, such as a process has between fork and exec, does not keep the directory locked. fault 33
func TestLockEndsWithClose(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockDir(dir)
	require.NoError(t, err)
	inherited, err := unix.Dup(int(lock.Fd()))
	require.NoError(t, err)
	defer func() { require.NoError(t, unix.Close(inherited)) }()
	_, err = lockDir(dir)
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, lock.Close())
	lock, err = lockDir(dir)
	require.NoError(t, err)
	require.NoError(t, lock.Close())
}
