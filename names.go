package cache

import "context"

// claimName says that what memory and the disk hold under a name is about to differ, until release is
// called: from before a new record's lease until the record is visible or taken back, and from before
// a name is given up until nothing of it is left. Only Check waits for a name, and it does not keep one
// that memory knows, so this never blocks on a backend. (Deletions need no claim: a
// condemned record is known to the graph until nothing of it is left.)
func (m *manager) claimName(id string) (release func()) {
	release, err := m.nameSlots.Enter(context.Background(), id)
	if err != nil {
		return func() {} // a context without end does not end
	}
	return release
}
