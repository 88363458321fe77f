package testutil

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"

	"github.com/layercache/cache/metadata"
)

// labelTemporary marks leases that must not outlive an operation.
const labelTemporary = "buildkit/lease.temporary"

// volatileKeys are row keys that change without the record changing.
var volatileKeys = map[string]bool{
	"cache.lastUsedAt": true, "cache.usageCount": true, "snapshot.size": true, "layercache.unsynced": true,
}

// finish is the cleanup of New: check, close, open, compare, check, close.
func (e *Env) finish() {
	e.t.Helper()
	e.Faults.Reset()
	if e.Manager != nil {
		before := e.checkAll("at the end of the test")
		if err := e.Close(); err != nil {
			e.t.Errorf("closing the cache: %v", err)
			return
		}
		if err := e.TryOpen(context.Background()); err != nil {
			e.t.Errorf("opening the cache again: %v", err)
			return
		}
		after := e.checkAll("after closing and opening again")
		for _, diff := range diffRows(before, after) {
			e.t.Errorf("closing and opening changed the records: %s", diff)
		}
	}
	if err := e.Close(); err != nil {
		e.t.Errorf("closing the cache: %v", err)
	}
	for _, m := range mountsBelow(e.Dir) {
		e.t.Errorf("a mount is left: %s", m)
	}
}

// checkAll reports what is wrong with the cache and returns its rows.
func (e *Env) checkAll(when string) map[string]string {
	e.t.Helper()
	var problems []string
	var rows map[string]string
	e.Faults.Quietly(func() { problems, rows = e.check(context.Background()) })
	for _, p := range problems {
		e.t.Errorf("%s: %s", when, p)
	}
	return rows
}

// Problems lists what must not be left over when nobody uses the cache: live refs, temporary leases, and
// whatever Manager.Check finds. The cleanup of New fails the test if there is anything; a test may ask
// earlier. It passes no fault points.
func (e *Env) Problems(ctx context.Context) []string {
	var problems []string
	e.Faults.Quietly(func() { problems, _ = e.check(ctx) })
	return problems
}

// check is the one place where a cache at rest is judged.
func (e *Env) check(ctx context.Context) (problems []string, rows map[string]string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if n := e.Manager.Stats().Refs; n != 0 {
		add("%d refs are live %v", n, e.Manager.Holders(""))
	}
	found, err := e.Manager.Check(ctx)
	if err != nil {
		add("check: %v", err)
	}
	for _, f := range found {
		add("%s", f)
	}
	// Check judges its own store's leases only, but here there is nobody else who would need one.
	ls, err := e.Opt.LeaseManager.List(ctx)
	if err != nil {
		add("leases: %v", err)
	}
	for _, l := range ls {
		if _, temporary := l.Labels[labelTemporary]; temporary {
			add("temporary lease %s is left", l.ID)
		}
	}
	items, err := e.Opt.MetadataStore.All()
	if err != nil {
		add("records: %v", err)
	}
	rows = map[string]string{}
	for _, item := range items {
		rows[item.ID()] = rowText(item)
	}
	return problems, rows
}

// rowText returns what a row says, as text.
func rowText(item *metadata.StorageItem) string {
	var sb strings.Builder
	for _, key := range slices.Sorted(slices.Values(item.Keys())) {
		if v := item.Get(key); v != nil && !volatileKeys[key] {
			fmt.Fprintf(&sb, "%s=%s[%s] ", key, v.Value, v.Index)
		}
	}
	return sb.String()
}

func diffRows(before, after map[string]string) (diffs []string) {
	ids := maps.Clone(before)
	maps.Copy(ids, after)
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if before[id] != after[id] {
			diffs = append(diffs, fmt.Sprintf("%s: %q became %q", id, before[id], after[id]))
		}
	}
	return diffs
}

// mountsBelow lists the mount points in a directory.
func mountsBelow(dir string) []string {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return []string{fmt.Sprintf("mounts cannot be listed: %v", err)}
	}
	var points []string
	for _, info := range infos {
		points = append(points, info.Mountpoint)
	}
	return points
}
