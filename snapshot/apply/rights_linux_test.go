package apply_test

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// childEnv tells the test binary that it is a child, and of which kind.
const childEnv = "APPLY_TEST_CHILD"

// runChild runs one test of this binary in another process, whose attributes change sets.
func runChild(t *testing.T, test, kind, binary string, attr *syscall.SysProcAttr, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(append(os.Environ(), childEnv+"="+kind), env...)
	cmd.SysProcAttr = attr
	attr.Pdeathsig = syscall.SIGKILL
	out, err := cmd.CombinedOutput()
	if kind == "userns" && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL)) {
		t.Skipf("user namespaces are not to be had: %v", err)
	}
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "--- SKIP", "the child did not run the test")
	require.Contains(t, string(out), "--- PASS", "the child did not run the test")
}

func child(t *testing.T, kind string) {
	t.Helper()
	if os.Getenv(childEnv) != kind {
		t.Skipf("a child in %s only", kind)
	}
}

// nobody is the number of the user without any right.
const nobody = 65534

// TestUnprivileged runs the tests for ordinary users as one. CI runs the whole package so besides.
func TestUnprivileged(t *testing.T) {
	need.Root(t)
	// A place that nobody can get to: tests' own directories are for their user.
	dir, err := os.MkdirTemp("", "apply-nobody")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // that is the point
	binary := filepath.Join(dir, "test")
	copyFile(t, "/proc/self/exe", binary)
	tmp := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(tmp, 0o700))
	require.NoError(t, os.Chown(tmp, nobody, nobody))
	runChild(t, "Test(LayersOnPlainDirectory|LockedDirectories|HostileOnPlainDirectory|NobodysRights|SquashOwners|SquashedIsSaid|BadStreams)", "nobody", binary, &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
	}, "TMPDIR="+tmp)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	require.NoError(t, err)
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(dst, src)
	require.NoError(t, err)
	require.NoError(t, dst.Close())
}

func applyTo(t *testing.T, dir string, archive []byte, opts ...apply.Option) error {
	t.Helper()
	store := &blobs{}
	_, err := apply.New(store, opts...).Apply(t.Context(), store.put(archive, layerType), bind(dir))
	require.Zero(t, store.open)
	return err
}

// TestNobodysRights: what an ordinary user cannot make is an error that names entry and owner or what it is about, and nothing can be
// unpacked without its parent (design 6b; fault 42).
func TestNobodysRights(t *testing.T) {
	need.Unprivileged(t)
	for name, entry := range map[string]tree.Entry{
		"user": tree.File("d/f", "x", tree.Owner(1, os.Getegid())), "group": tree.File("d/f", "x", tree.Owner(os.Geteuid(), 1)), "link": tree.Symlink("d/f", "x", tree.Owner(1, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			data, err := tree.Tar(entry)
			require.NoError(t, err)
			err = applyTo(t, t.TempDir(), data)
			var owner *apply.OwnerError
			require.ErrorAs(t, err, &owner)
			require.Equal(t, apply.OwnerError{Entry: "d/f", UID: entry.UID, GID: entry.GID}, *owner)
			require.True(t, errdefs.IsPermissionDenied(err))
		})
	}
	for name, entry := range map[string]tree.Entry{
		"a device node": tree.Char("null", 1, 3), `the extended attribute "security.capability"`: tree.File("null", "x", tree.Xattr("security.capability", fileCap)),
	} {
		t.Run(name, func(t *testing.T) {
			err := applyTo(t, t.TempDir(), pack(t, entry))
			var privilege *apply.PrivilegeError
			require.ErrorAs(t, err, &privilege)
			require.Equal(t, apply.PrivilegeError{Entry: "null", What: name}, *privilege)
			require.True(t, errdefs.IsPermissionDenied(err))
		})
	}
	store := &blobs{}
	_, err := apply.New(store).ApplyDetached(t.Context(), store.put(pack(t), layerType), t.TempDir())
	require.ErrorIs(t, err, snapshot.ErrNeedsParent)
	require.True(t, errdefs.IsFailedPrecondition(err))
}

// fileCap is cap_net_raw, permitted and effective, in the second version of the kernel's format.
const fileCap = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// TestSquashOwners: with the option everybody gets the same tree of what the process itself owns, can copy and can remove (design 6b).
func TestSquashOwners(t *testing.T) {
	data, err := tree.Tar(
		tree.Dir("ro", tree.Mode(0o555), tree.Owner(7, 8), tree.Time(nanos)), tree.File("ro/f", "x", tree.Mode(0o200), tree.Owner(9, 10), tree.Time(nanos)),
		tree.Hardlink("ro/g", "ro/f"), tree.Symlink("ro/l", "f", tree.Owner(1, 1)), tree.Char("null", 1, 3), tree.Block("sda", 8, 0),
		tree.File("ping", "x", tree.Mode(0o755|fs.ModeSetuid), tree.Owner(3, 3), tree.Xattr("security.capability", fileCap)),
	)
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, applyTo(t, dir, data, apply.SquashOwners()))
	testutil.RequireTree(t, dir,
		tree.Dir("ro", tree.Mode(0o755)), tree.File("ro/f", "x", tree.Mode(0o600)), tree.Hardlink("ro/g", "ro/f"), tree.Symlink("ro/l", "f"),
		tree.File("ping", "x", tree.Mode(0o755|fs.ModeSetuid)),
	)
	for path, e := range testutil.ReadTree(t, dir) {
		if e.Kind == tree.KindHardlink {
			continue
		}
		require.Equalf(t, []int{os.Geteuid(), os.Getegid()}, []int{e.UID, e.GID}, "owner of %s", path)
	}
	require.True(t, testutil.ReadTree(t, dir)["ro"].ModTime.Equal(nanos))

	err = applyTo(t, t.TempDir(), hostileDevice(t), apply.SquashOwners())
	require.Truef(t, errdefs.IsInvalidArgument(err), "leaving devices out does not make one sound: %v", err)
}

// TestSquashedIsSaid: the result tells of a tree that is not quite the layer, and only of such (design 6b).
func TestSquashedIsSaid(t *testing.T) {
	store := &blobs{}
	foreign, err := tree.Tar(tree.File("f", "x", tree.Owner(7, 8)))
	require.NoError(t, err)
	for want, data := range map[string][]byte{"true": foreign, "": pack(t, tree.File("f", "x"))} {
		got, err := apply.New(store, apply.SquashOwners()).Apply(t.Context(), store.put(data, layerType), bind(t.TempDir()))
		require.NoError(t, err)
		require.Equal(t, want, got.Annotations[snapshot.AnnotationSquashed])
	}
}

func hostileDevice(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "dev", Typeflag: tar.TypeChar, Format: tar.FormatPAX}))
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// TestPrivileged: root gets what the layer says, owners, devices and file capabilities included, on every kind of mount
// (spec EXT-6; design 6).
func TestPrivileged(t *testing.T) {
	need.Overlay(t)
	entries := []tree.Entry{
		tree.Dir("d", tree.Owner(7, 8)), tree.File("d/f", "x", tree.Owner(9, 10), tree.Mode(0o4755|fs.ModeSetuid)), tree.Symlink("d/l", "f", tree.Owner(11, 12)),
		tree.Char("null", 1, 3, tree.Mode(0o666), tree.Owner(0, 5)), tree.Block("sda", 8, 0, tree.Mode(0o660), tree.Owner(0, 6)), tree.Fifo("p", tree.Owner(1, 1)),
		tree.File("ping", "x", tree.Owner(5, 5), tree.Xattr("security.capability", fileCap)),
	}
	data, err := tree.Tar(entries...)
	require.NoError(t, err)
	want := t.TempDir()
	testutil.WriteTree(t, want, entries...)

	dir := t.TempDir()
	require.NoError(t, applyTo(t, dir, data))
	testutil.DiffTree(t, testutil.ReadTree(t, want), testutil.ReadTree(t, dir), tree.Times, tree.Root)

	o := newOverlay(t, nil)
	store := &blobs{}
	_, err = apply.New(store).ApplyDetached(t.Context(), store.put(data, layerType), o.upper)
	require.NoError(t, err)
	withMounts(t, o.asLower(), func(dir string) {
		testutil.DiffTree(t, testutil.ReadTree(t, want), testutil.ReadTree(t, dir), tree.Times, tree.Root)
	})
}

// TestUserNamespace runs TestChildUserNamespace in one that has two users.
func TestUserNamespace(t *testing.T) {
	need.Root(t)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 10}}
	runChild(t, "TestChildUserNamespace", "userns", "/proc/self/exe", &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
	})
}

// TestChildUserNamespace: in a user namespace an overlay is written to through its mount, with the same result; nothing can be unpacked
// without its parent; owners that the namespace does not have and device nodes are typed errors (design 6, 6b; spec LM-1).
func TestChildUserNamespace(t *testing.T) {
	child(t, "userns")
	for _, c := range layerCases {
		t.Run(c.name, func(t *testing.T) {
			archive := pack(t, c.layer...)
			store := &blobs{}
			desc := store.put(archive, layerType)
			o := newOverlay(t, c.base, "userxattr")
			_, err := apply.New(store).ApplyDetached(t.Context(), desc, o.upper)
			require.ErrorIs(t, err, snapshot.ErrNeedsParent)
			got, err := apply.New(store).Apply(t.Context(), desc, o.mounts())
			require.NoError(t, err)
			requireDiffID(t, archive, got)
			withMounts(t, o.asLower(), func(dir string) { testutil.RequireTree(t, dir, c.want...) })
		})
	}
	t.Run("rights", func(t *testing.T) {
		mappedOwner, err := tree.Tar(tree.File("f", "x", tree.Owner(5, 6)))
		require.NoError(t, err)
		require.NoError(t, applyTo(t, t.TempDir(), mappedOwner))
		foreign, err := tree.Tar(tree.File("f", "x", tree.Owner(5, 600)))
		require.NoError(t, err)
		var owner *apply.OwnerError
		require.ErrorAs(t, applyTo(t, t.TempDir(), foreign), &owner)
		var privilege *apply.PrivilegeError
		require.ErrorAs(t, applyTo(t, t.TempDir(), pack(t, tree.Char("null", 1, 3))), &privilege)
		require.NoError(t, applyTo(t, t.TempDir(), pack(t, tree.Char("null", 1, 3)), apply.SquashOwners()))
	})
}
