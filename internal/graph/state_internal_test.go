package graph

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The whole table of design.md section 3: every pair of state and event, spec REC-4 and REC-6.
func TestEveryPairOfStateAndEvent(t *testing.T) {
	legal := map[State]map[Event]State{
		Active:    {Seal: Sealed, Condemn: Condemned},
		Sealed:    {Reopen: Active, Finalize: Ready, Condemn: Condemned},
		Lazy:      {Materialize: Ready, Condemn: Condemned},
		Ready:     {Lose: Lazy, Condemn: Condemned},
		Condemned: {Restore: Ready, Drop: Gone},
		Gone:      {},
	}
	pairs := 0
	for s := Active; s <= Gone; s++ {
		for e := Seal; e <= Drop; e++ {
			pairs++
			r := &Record{state: s, before: Ready}
			err := r.apply(e)
			want, ok := legal[s][e]
			if !ok {
				var te *TransitionError
				require.ErrorAs(t, err, &te, "%v/%v", s, e)
				require.Equal(t, TransitionError{State: s, Event: e}, *te)
				require.Contains(t, err.Error(), s.String())
				require.Contains(t, err.Error(), e.String())
				require.Equal(t, s, r.state, "an illegal event must change nothing")
				require.Zero(t, r.gen)
				continue
			}
			require.NoError(t, err, "%v/%v", s, e)
			require.Equal(t, want, r.state, "%v/%v", s, e)
			require.EqualValues(t, 1, r.gen, "%v/%v", s, e)
		}
	}
	require.Equal(t, 48, pairs)
}

func TestRestoreLeadsBackToEveryLivingState(t *testing.T) {
	for s := Active; s <= Ready; s++ {
		r := &Record{state: s}
		require.NoError(t, r.apply(Condemn))
		require.NoError(t, r.apply(Restore))
		require.Equal(t, s, r.state)
	}
}

func TestUnknownStatesAndEventsHaveNames(t *testing.T) {
	require.Equal(t, "state(0)", State(0).String())
	require.Equal(t, "event(99)", Event(99).String())
	_, err := next(State(0), 0, Condemn)
	require.Error(t, err)
	_, err = next(Condemned, Gone, Restore)
	require.Error(t, err)
}
