// Package syncs counts the calls by which a process forces data to disk.
package syncs

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"
)

// Counter counts the fdatasync and fsync calls of this process, those of all its threads and of
// every library in it, from Start on.
type Counter struct {
	fdatasync, fsync atomic.Int64
	failed           atomic.Pointer[error]
}

// Totals are the calls that a Counter has seen.
type Totals struct {
	Fdatasync, Fsync int64
}

// notification and response are the kernel's struct seccomp_notif and seccomp_notif_resp.
type (
	notification struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	response struct {
		id    uint64
		val   int64
		err   int32
		flags uint32
	}
)

// Start begins to count. The kernel asks the counter about each call before it makes it (a
// seccomp filter with user notification), which costs a few microseconds and cannot be undone:
// a process that measures time should not do this, one that counts should end when it is done.
// It needs Linux 5.7, and works without privileges.
func Start() (*Counter, error) {
	fd, err := install()
	if err != nil {
		return nil, err
	}
	c := &Counter{}
	go c.listen(fd)
	return c, nil
}

// Totals returns the number of calls so far, or an error if counting has failed meanwhile.
func (c *Counter) Totals() (Totals, error) {
	if err := c.failed.Load(); err != nil {
		return Totals{}, *err
	}
	return Totals{Fdatasync: c.fdatasync.Load(), Fsync: c.fsync.Load()}, nil
}

// install puts the filter on all threads and returns the descriptor that it reports to.
func install() (uintptr, error) {
	offsetNr := uint32(0)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetNr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 2, K: unix.SYS_FDATASYNC},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: unix.SYS_FSYNC},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The kernel wants this of whoever installs a filter without being root.
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, errors.Wrap(err, "giving up new privileges")
	}
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH)
	// Once a call is counted, a signal must not make the kernel restart it and count it again;
	// kernels before 5.19 have no such flag, and there the chance of it is small.
	fd, errno := seccomp(flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog)
	if errno == unix.EINVAL {
		fd, errno = seccomp(flags, &prog)
	}
	runtime.KeepAlive(filter)
	if errno != 0 {
		return 0, errors.Wrap(errno, "installing a seccomp filter")
	}
	return fd, nil
}

func seccomp(flags uintptr, prog *unix.SockFprog) (uintptr, unix.Errno) {
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(prog)))
	return fd, errno
}

// listen counts each call and lets it pass, until the process ends.
func (c *Counter) listen(fd uintptr) {
	runtime.LockOSThread()
	for {
		var n notification
		if errno := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT { // a signal here, or the caller is gone
				continue
			}
			c.fail(errors.Wrap(errno, "receiving a call to count"))
			// Without its listener the filter makes the calls fail, which nobody can overlook.
			_ = unix.Close(int(fd))
			return
		}
		switch n.nr {
		case unix.SYS_FDATASYNC:
			c.fdatasync.Add(1)
		case unix.SYS_FSYNC:
			c.fsync.Add(1)
		}
		r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if errno := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); errno != 0 && errno != unix.ENOENT {
			c.fail(errors.Wrap(errno, "letting a counted call pass"))
		}
	}
}

func (c *Counter) fail(err error) { c.failed.CompareAndSwap(nil, &err) }

func ioctl(fd, request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg))
	return errno
}
