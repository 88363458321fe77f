package cache_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/crash"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/need"
)

// disk is what a dead process left, before anything repairs it.
type disk struct {
	rows      map[string]map[string]string
	leases    map[string]bool
	snapshots map[string]snapshots.Kind
}

func readDisk(t *testing.T, dir string) disk {
	t.Helper()
	parts, err := local.OpenParts(ctx, dir, local.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, parts.Close()) }()
	d := disk{rows: readRows(t, parts.MetadataStore), leases: map[string]bool{}, snapshots: map[string]snapshots.Kind{}}
	ls, err := parts.LeaseManager.List(ctx)
	require.NoError(t, err)
	for _, l := range ls {
		d.leases[l.ID] = true
	}
	require.NoError(t, parts.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		d.snapshots[info.Name] = info.Kind
		return nil
	}))
	return d
}

// extra returns the one name that the scene does not have.
func extra[V any](t *testing.T, have map[string]V, rep crashReport) string {
	t.Helper()
	known := map[string]bool{}
	for _, n := range rep.Names {
		known[n.Mut], known[n.Imm] = true, true
	}
	var found []string
	for name := range have {
		if !known[name] {
			found = append(found, name)
		}
	}
	require.Len(t, found, 1)
	return found[0]
}

// orderRules are the rows of the table in docs/design.md, "What a crash leaves": where a process
// dies, what that leaves on disk, and what the next start makes of it.
var orderRules = []struct {
	name, operation string
	job             crash.Job
	// separate is a case that shared transactions do not have.
	separate bool
	left     func(t *testing.T, d disk, rep crashReport)
	// state is as in operation.states.
	state string
	// then looks closer, if set.
	then func(t *testing.T, env *testutil.Env, rep crashReport)
}{
	{
		name: "lease .. snapshot", operation: "new retained", separate: true,
		job: crash.Job{Op: fault.OpSnapshotPrepare, When: fault.Before},
		left: func(t *testing.T, d disk, rep crashReport) {
			id := extra(t, d.leases, rep)
			require.NotContains(t, d.snapshots, id)
			require.NotContains(t, d.rows, id)
		},
	},
	{
		name: "lease .. row", operation: "new retained",
		job: crash.Job{Op: fault.OpDBUpdate, When: fault.Before},
		left: func(t *testing.T, d disk, rep crashReport) {
			id := extra(t, d.leases, rep)
			require.Equal(t, snapshots.KindActive, d.snapshots[id])
			require.NotContains(t, d.rows, id)
		},
	},
	{
		name: "row .. publish", operation: "new retained",
		job: crash.Job{Op: fault.OpDBUpdate, When: fault.After},
		left: func(t *testing.T, d disk, rep crashReport) {
			id := extra(t, d.rows, rep)
			require.True(t, d.leases[id])
			require.Equal(t, snapshots.KindActive, d.snapshots[id])
		},
		state: "new active",
		then: func(t *testing.T, env *testutil.Env, rep crashReport) {
			ref, err := env.Manager.GetMutable(ctx, extra(t, rowsOf(t, env), rep))
			require.NoError(t, err)
			testutil.WithMount(t, ref, false, func(dir string) { requireText(t, dir, "held") })
			release(t, ref)
		},
	},
	{
		name: "commit .. row", operation: "finalize",
		job: crash.Job{Op: fault.OpDBUpdate, When: fault.Before},
		left: func(t *testing.T, d disk, rep crashReport) {
			pair := rep.Names["pair"]
			require.Equal(t, snapshots.KindCommitted, d.snapshots[pair.Imm])
			require.NotContains(t, d.snapshots, pair.Mut)
			require.Contains(t, d.rows[pair.Imm]["cache.equalMutable"], pair.Mut, "on disk it is a pair")
		},
		state: "pair ready",
	},
	{
		name: "mark .. leases", operation: "prune",
		job: crash.Job{Op: fault.OpDBUpdate, When: fault.After},
		left: func(t *testing.T, d disk, rep crashReport) {
			tip := rep.Names["tip"].Imm
			require.Contains(t, d.rows[tip], "cache.deleted")
			require.True(t, d.leases[tip])
		},
		state: "leaf gone, pair gone, tip gone",
	},
	{
		name: "leases .. removal", operation: "prune",
		job: crash.Job{Op: fault.OpDBUpdate, When: fault.Before, Nth: 2},
		left: func(t *testing.T, d disk, rep crashReport) {
			tip := rep.Names["tip"].Imm
			require.Contains(t, d.rows[tip], "cache.deleted")
			require.False(t, d.leases[tip])
		},
		state: "leaf gone, pair gone, tip gone",
	},
	{
		name: "attach new before deleting old, not committed", operation: "finalize", separate: true,
		job: crash.Job{Op: fault.OpSnapshotCommit, When: fault.Before},
		left: func(t *testing.T, d disk, rep crashReport) {
			pair := rep.Names["pair"]
			require.True(t, d.leases[pair.Mut] && d.leases[pair.Imm], "both")
			require.Equal(t, snapshots.KindActive, d.snapshots[pair.Mut])
		},
	},
	{
		name: "attach new before deleting old", operation: "finalize", separate: true,
		job: crash.Job{Op: fault.OpLeaseDelete, When: fault.Before},
		left: func(t *testing.T, d disk, rep crashReport) {
			pair := rep.Names["pair"]
			require.True(t, d.leases[pair.Mut] && d.leases[pair.Imm], "both")
			require.Equal(t, snapshots.KindCommitted, d.snapshots[pair.Imm])
			require.NotContains(t, d.rows, pair.Mut)
		},
		state: "pair ready",
		then: func(t *testing.T, env *testutil.Env, rep crashReport) {
			require.NotContains(t, leaseIDs(t, env), rep.Names["pair"].Mut, "the next start repairs it")
		},
	},
}

// Fault 29, spec INIT-2, INIT-5, INIT-11: each row of the order table, with a process that is killed in
// between, and with the state on disk that the row is about.
func TestOrderRules(t *testing.T) {
	if job, ok := crash.Asked(t); ok {
		crashChild(t, job)
		return
	}
	for backend, opts := range crashBackends {
		for _, rule := range orderRules {
			if rule.separate && backend != "separate" {
				continue
			}
			t.Run(backend+"/"+rule.name, func(t *testing.T) {
				if backend == "overlay" {
					need.Overlay(t)
				}
				job := rule.job
				job.Dir, job.Name, job.Args = t.TempDir(), rule.operation, []string{backend}
				said := crash.Run(t, job)
				require.Len(t, said, 1, "the child died before the end")
				var rep crashReport
				require.NoError(t, json.Unmarshal(said[0], &rep))
				rule.left(t, readDisk(t, job.Dir), rep)

				env := testutil.New(t, append([]testutil.Option{testutil.InDir(job.Dir)}, opts...)...)
				require.Empty(t, env.Problems(ctx))
				rows := rowsOf(t, env)
				require.Equal(t, rule.state, differences(t, rep, rows, false))
				if rule.then != nil {
					rule.then(t, env, rep)
				}
				requireContent(t, env, rep, rows)
				requireNothingLeft(t, env)
			})
		}
	}
}
