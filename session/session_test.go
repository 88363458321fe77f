package session_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/session"
)

func TestGroupIteratesInOrderAndRepeatedly(t *testing.T) {
	g := session.NewGroup("a", "", "b")
	require.Equal(t, []string{"a", "b"}, session.AllSessionIDs(g))
	require.Equal(t, []string{"a", "b"}, session.AllSessionIDs(g), "an iterator must not consume the group")
}

func TestNilGroupHasNoSessions(t *testing.T) {
	require.Empty(t, session.AllSessionIDs(nil))
	require.Empty(t, session.AllSessionIDs(session.NewGroup()))
}
