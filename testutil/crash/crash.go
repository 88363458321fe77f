// Package crash runs part of a test in a process of its own that dies on the way, as kill -9 has it, so that
// the test can look at what that left.
//
// The process is the test binary once more, told by an environment variable to do a job. The test
// function that calls Run is the one that runs in it, too, and asks for the job first:
//
//	func TestKilled(t *testing.T) {
//		if job, ok := crash.Asked(t); ok {
//			...              // open job.Dir, prepare, job.Say what the parent has to know
//			job.Arm(faults)  // dies at the point in question
//			...              // the operation under test
//			job.Die()        // or after it
//		}
//		said := crash.Run(t, crash.Job{Dir: t.TempDir(), Name: "commit", Point: 7})
//		...                      // open the directory and compare
//	}
//
// The package imports nothing of the cache, so that the tests of every package can use it.
package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/fault"
)

const (
	// jobEnv holds the job of a child, in JSON.
	jobEnv = "LAYERCACHE_TEST_CRASH_JOB"
	// mark begins the lines of a child's output that are meant for its parent.
	mark = "crash-says "
	// patience is how long a child may take. It is there to end a test that hangs, not to time one.
	patience = 2 * time.Minute
)

// Job is what a child is to do. The zero values of Point and Op have it die by Die only.
type Job struct {
	// Dir is the directory to work in. The test that made it removes it.
	Dir string
	// Name tells what to do; it is the test's.
	Name string
	// Args are the test's, too.
	Args []string
	// Point is the number of the fault point to die at.
	Point int
	// Op and When are the point to die at in another way: the Nth call (0 means the first) to pass that
	// side of an operation, see fault.Match.
	Op   string
	When fault.When
	Nth  int
}

// Asked returns the job of this process, and whether it has one: it was started by Run.
func Asked(t testing.TB) (Job, bool) {
	t.Helper()
	text := os.Getenv(jobEnv)
	if text == "" {
		return Job{}, false
	}
	var j Job
	require.NoError(t, json.Unmarshal([]byte(text), &j))
	return j, true
}

// Arm has the process die at the job's point, counted from now on.
func (j Job) Arm(f *fault.Faults) {
	f.Reset()
	if j.Point > 0 {
		f.KillAt(j.Point)
	}
	if j.Op == "" {
		return
	}
	seen, kill := 0, fault.Kill()
	f.Inject(fault.Match{Op: j.Op, When: j.When}, func(ctx context.Context, p fault.Point) error {
		if seen++; seen < max(j.Nth, 1) {
			return nil
		}
		return kill(ctx, p)
	})
}

// Say hands a value, as JSON, to the parent.
func (j Job) Say(t testing.TB, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	require.NoError(t, err)
	_, err = os.Stdout.WriteString("\n" + mark + string(text) + "\n")
	require.NoError(t, err)
}

// Die ends the process as a kill at a fault point does.
func (j Job) Die(t testing.TB) {
	t.Helper()
	require.NoError(t, fault.Kill()(context.Background(), fault.Point{}))
}

// Run has the top-level test that t belongs to run in a child, with a job, and waits for it to
// die. A child that ends in another way, because the test failed in it or the point was never reached,
// fails t. Run returns what the child said, in order, for json.Unmarshal. It skips t where a
// process cannot be killed by a signal.
func Run(t testing.TB, job Job) [][]byte {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs signals")
	}
	text, err := json.Marshal(job)
	require.NoError(t, err)
	// The child never cleans up. What it makes for itself goes with the parent's directory.
	tmp := filepath.Join(t.TempDir(), "child")
	require.NoError(t, os.Mkdir(tmp, 0o700))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	top, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+top+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), jobEnv+"="+string(text), "TMPDIR="+tmp)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	require.NoError(t, unmountBelow(tmp)) // the child may have died with a tree mounted there
	require.NoError(t, ctx.Err(), "the child hangs:\n%s", out.String())
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "the child came to a good end:\n%s", out.String())
	require.Equal(t, -1, exit.ExitCode(), "the child was not killed but failed (%v):\n%s", exit, out.String())
	var said [][]byte
	for line := range bytes.Lines(out.Bytes()) {
		if text, ok := bytes.CutPrefix(line, []byte(mark)); ok {
			said = append(said, text)
		}
	}
	return said
}
