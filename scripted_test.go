package cache_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/observe"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/knownrun"
	loopback "github.com/layercache/cache/testutil/registry"
)

// untimed are counts without durations, which the run does not tell.
func untimed(counts observe.Counts) observe.Counts {
	out := observe.Counts{}
	for name, c := range counts {
		c.Time, c.Longest = 0, 0
		out[name] = c
	}
	return out
}

// TestCountsOfAScriptedRun: of a run on real parts, with blobs from a registry, every event is counted, and what there is in the cache as well,
// by state and type, as it is known from the script. Scenarios S-1, S-4, S-9.
func TestCountsOfAScriptedRun(t *testing.T) {
	for _, name := range []string{"native", "overlay"} {
		t.Run(name, func(t *testing.T) {
			reg := loopback.New(t)
			counters := &observe.Counters{}
			observed := testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Observer = counters })
			env := testutil.New(t, append([]testutil.Option{observed}, backends[name]...)...)
			counters.Take()
			run := knownrun.Do(t, env, reg, func(run *knownrun.Run) {
				var size int64
				totals := env.Manager.Totals()
				for i := range totals {
					require.Zero(t, totals[i].Unmeasured, "%+v", totals[i])
					size += totals[i].Bytes
					totals[i].Bytes = 0
				}
				require.Equal(t, run.Full, totals)
				require.Equal(t, run.FullBytes, size, "what DiskUsage reports")
			})
			counts := counters.Take()
			require.Equal(t, run.Want, untimed(counts))

			// By the manager's clock only the waiting in the script takes time, and that is no part of any event.
			require.Zero(t, counts.Sum("").Time)
			require.Equal(t, counts["get.hit.id"].Events+counts["get.hit.blob"].Events, counts.Sum("get.hit").Events)
			require.Empty(t, counters.Snapshot())

			var back observe.State
			require.NoError(t, json.Unmarshal([]byte(observe.Var(env.Manager, counters).String()), &back))
			require.Equal(t, observe.StateOf(env.Manager, nil), back)
		})
	}
}
