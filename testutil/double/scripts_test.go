package double_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// Scripts that TestAgainstContainerd once found differences with, as short as they get.

// script is calls with their outcomes, on the double and on containerd alike.
type script []struct {
	step step
	want string
}

func prepare(key string) step {
	return func(ctx context.Context, b *backend) string {
		_, err := b.sn.Prepare(ctx, key, "")
		return class(err)
	}
}

func commit(name, key string) step {
	return func(ctx context.Context, b *backend) string { return class(b.sn.Commit(ctx, name, key)) }
}

func runScript(t *testing.T, s script) {
	p := newPair(t, t.TempDir())
	t.Cleanup(p.peer.close)
	for i, call := range s {
		require.Equal(t, call.want, p.run(t, call.step), "call %d", i)
	}
}

// TestAgainstContainerdLeftIngest: what was written under a ref outlives the ingest when garbage collection
// does not look at content, be it that no blob was ever stored or that no entry went, and the next writer of
// the ref resumes it.
func TestAgainstContainerdLeftIngest(t *testing.T) {
	var none ocispecs.Descriptor
	runScript(t, script{
		{createLease("a", nil), "create ok"},
		{createLease("b", nil), "create ok"},
		{inLease("b", write("r", "x", none, false, nil)), "write 0 ok ok ok"},
		{deleteLease("b"), "delete ok"},
		{collect, "gc ok"}, // the ingest goes, its bytes do not: there is no blob
		{write("r", "y", none, true, nil), "write 1 ok ok precondition"},

		{createLease("b", nil), "create ok"},
		{inLease("b", write("s", "x", none, false, nil)), "write 0 ok ok ok"},
		{deleteLease("b"), "delete ok"},
		{collect, "gc ok"},
		{inLease("a", write("t", "z", none, true, nil)), "write 0 ok ok ok"}, // the first blob
		{collect, "gc ok"},                                                   // nothing goes, so nobody looks
		{inLease("a", write("s", "y", none, false, nil)), "write 1 ok ok ok"},

		{createLease("b", nil), "create ok"},
		{inLease("b", write("u", "x", none, false, nil)), "write 0 ok ok ok"},
		{deleteLease("b"), "delete ok"},
		{collect, "gc ok"}, // now the bytes go with the ingest
		{write("u", "y", none, false, nil), "write 0 ok ok ok"},
		{deleteBlob("z"), "delete ok"},
		{collect, "gc ok"},
		{write("t", "z", ocispecs.Descriptor{Digest: digest.FromString("z")}, false, nil), "write 0 ok ok ok"},
	})
}

// TestAgainstContainerdRolledBackCommit: a snapshot that was committed in a transaction that failed stays
// without an entry until one is deleted, and meanwhile the number in its key is given again, so that a
// snapshot of the same name can neither be prepared nor committed.
func TestAgainstContainerdRolledBackCommit(t *testing.T) {
	remove := func(key string) step {
		return func(ctx context.Context, b *backend) string { return class(b.sn.Remove(ctx, key)) }
	}
	failing := func(s step) step {
		return func(ctx context.Context, b *backend) string {
			var out string
			err := b.update(ctx, func(ctx context.Context) error {
				out = s(ctx, b)
				return errors.New("outer commit failed")
			})
			return out + ", " + class(err)
		}
	}
	root := func(key string) step {
		return func(ctx context.Context, b *backend) string {
			_, err := b.sn.Update(ctx, snapshots.Info{Name: key, Labels: map[string]string{"containerd.io/gc.root": "1"}})
			return class(err)
		}
	}
	runScript(t, script{
		{prepare("a"), "ok"},
		{prepare("b"), "ok"},
		{root("first"), "ok"},
		{root("a"), "ok"},
		{root("b"), "ok"},
		{failing(commit("d", "a")), "ok, error"},
		{commit("d", "b"), "exists"}, // rolls back as well, so the number does not move on
		{collect, "gc ok"},           // nothing is dirty
		{commit("d", "b"), "exists"},
		{prepare("d"), "error"}, // this does take the number
		{prepare("d"), "ok"},
		{remove("d"), "ok"},
		{collect, "gc ok"},
		{commit("d", "b"), "ok"},
	})
}

// TestAgainstContainerdCommitOfView: a view cannot be committed, and how that is said depends on its having a parent.
func TestAgainstContainerdCommitOfView(t *testing.T) {
	view := func(key, parent string) step {
		return func(ctx context.Context, b *backend) string {
			_, err := b.sn.View(ctx, key, parent)
			return class(err)
		}
	}
	runScript(t, script{
		{prepare("a"), "ok"},
		{commit("b", "a"), "ok"},
		{view("v", "b"), "ok"},
		{commit("c", "v"), "error"},
		{view("w", ""), "ok"},
		{commit("c", "w"), "precondition"},
	})
}
