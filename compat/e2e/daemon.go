package e2e

import (
	"bytes"
	"context"
	stderrors "errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/pkg/errors"
)

// Names of the snapshotters that BuildKit's own worker has.
const (
	Overlayfs = "overlayfs"
	Native    = "native"
)

// startLimit is how long a daemon may take until it serves, and to stop.
const startLimit = 2 * time.Minute

// Config is what a daemon runs on.
type Config struct {
	Programs *Programs
	// Dir is a directory for everything of the daemon: its state, socket, configuration, log and temporary files. A path that is
	// longer than some 80 bytes is too long for a socket.
	Dir string
	// Snapshotter is Overlayfs or Native.
	Snapshotter string
	// Registries are hosts, with ports, that are asked without TLS.
	Registries []string
}

// Worker is the directory of the worker's cache.
func (c Config) Worker() string { return filepath.Join(c.root(), "runc-"+c.Snapshotter) }

func (c Config) root() string   { return filepath.Join(c.Dir, "state") }
func (c Config) socket() string { return filepath.Join(c.Dir, "buildkitd.sock") }
func (c Config) log() string    { return filepath.Join(c.Dir, "buildkitd.log") }
func (c Config) temp() string   { return filepath.Join(c.Dir, "tmp") }

// write makes the directories and the configuration. Nothing is collected unasked, and nothing is looked up on the network.
func (c Config) write() (file string, err error) {
	for _, dir := range []string{c.root(), c.temp()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", errors.WithStack(err)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "root = %q\n[grpc]\naddress = [%q]\n[otel]\nsocketPath = %q\n[cdi]\ndisabled = true\n",
		c.root(), "unix://"+c.socket(), filepath.Join(c.Dir, "otel.sock"))
	fmt.Fprintf(&b, "[worker.containerd]\nenabled = false\n[worker.oci]\nenabled = true\nsnapshotter = %q\nplatforms = [%q]\n",
		c.Snapshotter, "linux/"+runtime.GOARCH)
	runc, err := writeRunc(c.Dir)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "networkMode = \"host\"\ngc = false\nbinary = %q\n", runc)
	for _, host := range c.Registries {
		fmt.Fprintf(&b, "[registry.%q]\nhttp = true\n", host)
	}
	file = filepath.Join(c.Dir, "buildkitd.toml")
	return file, errors.WithStack(os.WriteFile(file, []byte(b.String()), 0o600))
}

// Daemon is a running buildkitd.
type Daemon struct {
	Config
	Side Side
	cmd  *exec.Cmd
	// ended is closed when the process is gone, as err says.
	ended chan struct{}
	err   error
}

// Start starts a side's buildkitd and returns once it serves. The caller must Stop or Kill it.
func Start(ctx context.Context, c Config, s Side) (*Daemon, error) {
	file, err := c.write()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { _ = log.Close() }() // the process has its own
	d := &Daemon{Config: c, Side: s, ended: make(chan struct{})}
	d.cmd = exec.Command(c.Programs.Buildkitd(s), "--config", file)
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = c.Dir, log, log
	d.cmd.Env = append(os.Environ(), "TMPDIR="+c.temp(), "HOME="+c.Dir)
	// It dies with this process, whatever that dies of. The signal comes when the thread ends that started it, which is why that one stays.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := d.cmd.Start()
		started <- err
		if err == nil {
			d.err = d.cmd.Wait()
			close(d.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.WithStack(err)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := d.serves(ctx); err != nil {
		return nil, stderrors.Join(err, d.Kill(), errors.Errorf("its log:\n%s", d.Log()))
	}
	return d, nil
}

// serves waits until the daemon answers: a server of HTTP/2 speaks first.
func (d *Daemon) serves(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", d.socket())
		if err == nil {
			err = d.hears(ctx, conn)
		}
		if err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return errors.Errorf("buildkitd ended: %v", d.err)
		case <-ctx.Done():
			return errors.Wrapf(context.Cause(ctx), "waiting for buildkitd: %v", err)
		case <-tick.C:
		}
	}
}

// hears waits for the first byte that comes through a connection.
func (d *Daemon) hears(ctx context.Context, conn net.Conn) error {
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-ctx.Done():
		case <-d.ended:
		case <-over:
		}
		_ = conn.Close() // nothing was written
	}()
	_, err := conn.Read(make([]byte, 1))
	return errors.WithStack(err)
}

// Pid is the process.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Log returns what all daemons of the directory have printed.
func (d *Daemon) Log() string {
	dt, err := os.ReadFile(d.log())
	if err != nil {
		return err.Error()
	}
	return string(dt)
}

// Stop asks the daemon to end, and waits until it has. One that does not, or that crashes on the way, is an error.
func (d *Daemon) Stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return errors.WithStack(err)
	}
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case <-d.ended:
	case <-limit.C:
		_ = d.cmd.Process.Signal(syscall.SIGQUIT) // it prints its stacks into the log
		return stderrors.Join(errors.Errorf("buildkitd does not stop; its log:\n%s", d.Log()), d.Kill())
	}
	// Stopped by a signal it exits with 1, as after any error.
	if code := d.cmd.ProcessState.ExitCode(); code != 0 && code != 1 || !strings.Contains(lastLines(d.Log(), 40), "forcing shutdown") {
		return errors.Errorf("buildkitd ended with %d; its log:\n%s", code, d.Log())
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Kill ends the daemon with SIGKILL, and after it the containers that it leaves behind. Mounts stay, as after any such death.
func (d *Daemon) Kill() error {
	_ = d.cmd.Process.Kill() // it may have ended already
	<-d.ended
	return RemoveContainers(d.Dir)
}

// Running tells whether the process lives.
func (d *Daemon) Running() bool {
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// Buildctl returns a command of the side's client that talks to the daemon. It has no credentials and no configuration of its user.
func (d *Daemon) Buildctl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.Programs.Buildctl(d.Side), append([]string{"--addr", "unix://" + d.socket()}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+d.Dir, "DOCKER_CONFIG="+filepath.Join(d.Dir, "docker"), "TMPDIR="+d.temp())
	return cmd
}

// output runs the client and returns what it prints.
func (d *Daemon) output(ctx context.Context, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := d.Buildctl(ctx, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return stdout.Bytes(), errors.Wrapf(err, "%s: %s", cmd, stderr.Bytes())
}
