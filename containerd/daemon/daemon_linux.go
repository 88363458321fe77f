package daemon

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/moby/sys/mountinfo"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	healthapi "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/layercache/cache/testutil/need"
)

// readyTimeout is how long a daemon may take to answer. It takes a fraction of a second on an idle machine.
const readyTimeout = time.Minute

// Daemon is a containerd that was started for a test.
type Daemon struct {
	// Dir has everything that it keeps: root, state, its socket and its log.
	Dir string
	// Address is its socket.
	Address string

	t       testing.TB
	program string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process has ended
}

// Start starts a containerd in a new directory. When the test ends it is killed, with what it mounted, and the directory removed. A test that
// is not run by root is skipped.
func Start(t testing.TB) *Daemon {
	t.Helper()
	need.Root(t)
	name, err := program()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "ctd-") // short: the path of a socket has at most 107 bytes
	require.NoError(t, err)
	d := &Daemon{Dir: dir, Address: filepath.Join(dir, "sock"), t: t, program: name}
	t.Cleanup(d.cleanUp)
	config := "version = 3\n[plugins.'io.containerd.metadata.v1.bolt']\nno_sync = true\n" // a test is not meant to survive a power cut
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600))
	d.Run()
	return d
}

// Run starts the daemon again after Kill, and waits until it answers.
func (d *Daemon) Run() {
	d.t.Helper()
	require.Nil(d.t, d.cmd, "the daemon is running")
	out, err := os.OpenFile(filepath.Join(d.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(d.t, err)
	defer out.Close()
	d.cmd = exec.Command(d.program, "--config", filepath.Join(d.Dir, "config.toml"), "--address", d.Address,
		"--root", filepath.Join(d.Dir, "root"), "--state", filepath.Join(d.Dir, "state"))
	d.cmd.Stdout, d.cmd.Stderr = out, out
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	d.ended = make(chan struct{})
	started := make(chan error)
	go func(cmd *exec.Cmd, ended chan struct{}) {
		runtime.LockOSThread() // the kernel kills the child when the thread ends that started it
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed, always
		}
		close(ended)
	}(d.cmd, d.ended)
	require.NoError(d.t, <-started)
	require.NoError(d.t, d.ready(), "the daemon's log:\n%s", d.tail())
}

// ready waits until the daemon answers, or ends.
func (d *Daemon) ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-d.ended:
			stop(errors.New("the daemon ended"))
		case <-ctx.Done():
		}
	}()
	often := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}}
	conn, err := grpc.NewClient("unix://"+d.Address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(often))
	if err != nil {
		return errors.WithStack(err)
	}
	defer conn.Close()
	r, err := healthapi.NewHealthClient(conn).Check(ctx, &healthapi.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return errors.Wrapf(context.Cause(ctx), "waiting for the daemon: %v", err)
	}
	if r.Status != healthapi.HealthCheckResponse_SERVING {
		return errors.Errorf("the daemon is %s", r.Status)
	}
	return nil
}

// Kill kills the daemon with SIGKILL, as a crash would end it, and waits until it is gone.
func (d *Daemon) Kill() {
	if d.cmd == nil {
		return
	}
	_ = unix.Kill(-d.cmd.Process.Pid, unix.SIGKILL) // it may have ended by itself, which the test will see
	<-d.ended
	d.cmd = nil
}

// Restart kills the daemon and starts it again.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.Kill()
	d.Run()
}

// Suspend stops the daemon where it is: once it has returned, nothing is answered until Resume.
func (d *Daemon) Suspend() {
	d.t.Helper()
	pid := d.cmd.Process.Pid
	require.NoError(d.t, unix.Kill(pid, unix.SIGSTOP))
	// Its threads stop one by one, and the last reports it.
	stopped := func() error { return unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED, nil) }
	err := stopped()
	for errors.Is(err, unix.EINTR) {
		err = stopped()
	}
	require.NoError(d.t, err)
}

// Resume has a suspended daemon go on.
func (d *Daemon) Resume() {
	d.t.Helper()
	require.NoError(d.t, unix.Kill(d.cmd.Process.Pid, unix.SIGCONT))
}

// Client returns a client, which is closed when the test ends.
func (d *Daemon) Client(opts ...client.Opt) *client.Client {
	d.t.Helper()
	c, err := client.New(d.Address, opts...)
	require.NoError(d.t, err)
	d.t.Cleanup(func() { require.NoError(d.t, c.Close()) })
	return c
}

func (d *Daemon) cleanUp() {
	d.Kill()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(d.Dir))
	if err != nil {
		d.t.Errorf("mounts cannot be listed: %v", err)
	}
	for _, info := range slices.Backward(infos) {
		if err := unix.Unmount(info.Mountpoint, unix.MNT_DETACH); err != nil {
			d.t.Errorf("unmounting %s: %v", info.Mountpoint, err)
		}
	}
	if d.t.Failed() {
		d.t.Logf("the daemon's log:\n%s", d.tail())
	}
	if err := os.RemoveAll(d.Dir); err != nil {
		d.t.Errorf("removing the daemon's directory: %v", err)
	}
}

// tail returns the last lines of the log.
func (d *Daemon) tail() string {
	text, err := os.ReadFile(filepath.Join(d.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	return lastLines(string(text), 30)
}

// lastLines returns at most n lines from the end of a text.
func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-n):], "\n")
}
