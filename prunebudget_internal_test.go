package cache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/usage"
)

// Spec PRN-5, PRN-6, quirks Q66, Q67: the table of the specification, and what it leaves open. keep is -1 where there is no budget.
func TestBudgetTable(t *testing.T) {
	for _, row := range []struct{ total, free, maxUsed, reserved, minFree, keep int64 }{
		{total: 80, free: 20, keep: -1},
		{total: 80, free: 20, maxUsed: 30, keep: 30},
		{total: 80, free: 20, reserved: 25, keep: 25},
		{total: 80, free: 20, maxUsed: 10, reserved: 25, keep: 25},
		{total: 80, free: 20, minFree: 50, keep: 50},
		{total: 80, free: 20, reserved: 60, minFree: 50, keep: 60},
		{total: 80, free: 20, maxUsed: 40, reserved: 15, minFree: 50, keep: 40},
		{total: 80, free: 20, maxUsed: 70, reserved: 15, minFree: 50, keep: 50},
		{total: 30, free: 10, minFree: 35, keep: 5},
		{total: 30, free: 10, maxUsed: 25, reserved: 12, minFree: 35, keep: 12},
		{total: 30, free: 40, minFree: 35, keep: 30},
		{total: 30, free: 40, maxUsed: 20, minFree: 35, keep: 20},
		{total: 30, free: 5, minFree: 60, keep: 0},
		{total: 0, free: 40, minFree: 35, keep: 0},

		{total: 80, free: 50, minFree: 50, keep: 80},
		{total: 80, free: 20, maxUsed: 90, keep: 90},
		{total: 80, free: 20, maxUsed: 90, minFree: 50, keep: 50},
		{total: 80, free: 40, reserved: 10, minFree: 35, keep: 80},
		{total: 10, free: 0, reserved: 25, minFree: 1 << 62, keep: 25},
		{total: 10, free: 0, minFree: 1<<63 - 1, keep: 0},
	} {
		p := usage.PruneInfo{MaxUsedSpace: row.maxUsed, ReservedSpace: row.reserved, MinFreeSpace: row.minFree}
		policy := prunePolicy{PruneInfo: p}
		if row.keep < 0 {
			require.False(t, policy.budgeted(), "%+v", row)
			continue
		}
		require.True(t, policy.budgeted(), "%+v", row)
		require.Equal(t, row.keep, budget(p, row.total, row.free), "%+v", row)
	}
}

// Design, Seen from outside: of several limits the one is told that makes records go.
func TestRuleTable(t *testing.T) {
	for _, row := range []struct {
		total, free, maxUsed, reserved, minFree int64
		keepDuration                            time.Duration
		rule                                    string
	}{
		{total: 80, free: 20, rule: RuleIdle},
		{total: 80, free: 20, keepDuration: time.Hour, rule: RuleKeepDuration},
		{total: 80, free: 20, reserved: 25, rule: RuleReservedSpace},
		{total: 80, free: 20, reserved: 25, keepDuration: time.Hour, rule: RuleReservedSpace},
		{total: 80, free: 20, maxUsed: 30, rule: RuleMaxUsedSpace},
		{total: 80, free: 20, maxUsed: 10, reserved: 25, rule: RuleMaxUsedSpace},
		{total: 80, free: 20, minFree: 50, rule: RuleMinFreeSpace},
		{total: 80, free: 20, reserved: 60, minFree: 50, rule: RuleMinFreeSpace},
		{total: 80, free: 20, maxUsed: 40, minFree: 50, rule: RuleMaxUsedSpace},
		{total: 80, free: 20, maxUsed: 70, minFree: 50, rule: RuleMinFreeSpace},
		{total: 80, free: 60, maxUsed: 70, minFree: 50, rule: RuleMaxUsedSpace},
		{total: 10, free: 0, minFree: 1<<63 - 1, rule: RuleMinFreeSpace},
	} {
		p := usage.PruneInfo{MaxUsedSpace: row.maxUsed, ReservedSpace: row.reserved, MinFreeSpace: row.minFree, KeepDuration: row.keepDuration}
		require.Equal(t, row.rule, ruleOf(p, row.total, row.free), "%+v", row)
	}
}
