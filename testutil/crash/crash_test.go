package crash_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/crash"
	"github.com/layercache/cache/testutil/fault"
)

// TestRun: a child dies where it is told to, nothing it does later happens, and the parent hears
// what it said before (fault 29).
func TestRun(t *testing.T) {
	if job, ok := crash.Asked(t); ok {
		child(t, job)
		return
	}
	for _, test := range []struct {
		job   crash.Job
		files []string
	}{
		{crash.Job{}, []string{"1", "2", "3"}},
		{crash.Job{Point: 1}, nil},
		{crash.Job{Point: 2}, []string{"1"}},
		{crash.Job{Point: 5}, []string{"1", "2"}},
		{crash.Job{Op: "write", When: fault.After}, []string{"1"}},
		{crash.Job{Op: "write", When: fault.Before, Nth: 3}, []string{"1", "2"}},
	} {
		test.job.Dir = t.TempDir()
		test.job.Args = []string{"1", "2", "3"}
		said := crash.Run(t, test.job)
		require.NotEmpty(t, said)
		var heard []string
		require.NoError(t, json.Unmarshal(said[0], &heard))
		require.Equal(t, test.job.Args, heard)
		require.Equal(t, test.job.Point == 0 && test.job.Op == "", len(said) == 2, "the end was reached: %s", said)
		entries, err := os.ReadDir(test.job.Dir)
		require.NoError(t, err)
		var files []string
		for _, e := range entries {
			files = append(files, e.Name())
		}
		require.Equal(t, test.files, files)
	}
}

// child writes a file per argument and passes two points for each.
func child(t *testing.T, job crash.Job) {
	job.Say(t, job.Args)
	faults := fault.New()
	job.Arm(faults)
	for _, name := range job.Args {
		require.NoError(t, faults.Call(context.Background(), "write", name, func() error {
			return os.WriteFile(filepath.Join(job.Dir, name), nil, 0o600)
		}))
	}
	job.Say(t, "the end")
	job.Die(t)
}
