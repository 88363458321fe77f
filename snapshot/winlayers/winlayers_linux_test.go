package winlayers_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/snapshot/winlayers"
	"github.com/layercache/cache/testutil/double"
	"github.com/layercache/cache/testutil/tree"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var when = time.Date(2020, 1, 2, 3, 4, 5, 678, time.UTC)

func bind(dir string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}
}

func write(t *testing.T, entries ...tree.Entry) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, tree.Write(dir, entries...))
	return dir
}

// put writes an archive into the store.
func put(t *testing.T, cs content.Store, mediaType string, data []byte) ocispecs.Descriptor {
	t.Helper()
	desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	require.NoError(t, content.WriteBlob(t.Context(), cs, desc.Digest.String(), bytes.NewReader(data), desc))
	return desc
}

// pack makes an archive whose entries belong to whoever runs the test.
func pack(t *testing.T, entries ...tree.Entry) []byte {
	t.Helper()
	for i := range entries {
		entries[i].UID, entries[i].GID = os.Geteuid(), os.Getegid()
	}
	data, err := tree.Tar(entries...)
	require.NoError(t, err)
	return data
}

// raw makes an archive of headers as they are.
func raw(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, hdr := range headers {
		hdr.Uid, hdr.Gid, hdr.Mode = os.Geteuid(), os.Getegid(), hdr.Mode|0o755
		require.NoError(t, w.WriteHeader(&hdr))
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// requireTree requires that dir holds the entries and nothing else.
func requireTree(t *testing.T, dir string, entries ...tree.Entry) {
	t.Helper()
	want, err := tree.Read(write(t, entries...))
	require.NoError(t, err)
	got, err := tree.Read(dir)
	require.NoError(t, err)
	require.Empty(t, tree.Diff(want, got, tree.Times, tree.Root, tree.Owners))
}

// What is below Files/ is unpacked without that prefix, which links lose, too; the rest is ignored, and part of the digest (spec WIN-1).
func TestApply(t *testing.T) {
	cs := double.New().ContentStore()
	archive := append(pack(t,
		tree.Dir("Hives"), tree.File("Hives/x", "x"), tree.Dir("Files"), tree.Dir("Files/d"), tree.File("Files/d/f", "x"), tree.Hardlink("Files/link", "Files/d/f"),
		tree.Symlink("Files/s", "Files/d/f"), tree.Symlink("Files/t", "elsewhere"), tree.Dir("Files/Files"), tree.File("Files/Files/x", "y"),
		tree.File("Filesystem", "x"), tree.File("other", "x"), tree.Whiteout("Files/gone"), tree.Whiteout("kept"),
	), "what follows the end"...)
	desc := put(t, cs, ocispecs.MediaTypeImageLayer, archive)
	dir := write(t, tree.File("gone", "x"), tree.File("kept", "x"))
	a := winlayers.NewApplier(cs, apply.New(cs))
	got, err := a.Apply(winlayers.WithLayerMode(t.Context()), desc, bind(dir))
	require.NoError(t, err)
	require.Equal(t, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(archive), Size: int64(len(archive))}, got)
	requireTree(t, dir, tree.File("kept", "x"), tree.File("d/f", "x"), tree.Hardlink("link", "d/f"), tree.Symlink("s", "d/f"), tree.Symlink("t", "elsewhere"),
		tree.File("Files/x", "y"))

	// The same layer without the mode is an ordinary one.
	plain := t.TempDir()
	_, err = a.Apply(t.Context(), desc, bind(plain))
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(plain, "Files/d/f"))
	require.FileExists(t, filepath.Join(plain, "Hives/x"))
}

// Nothing gets out of the tree, whatever the prefix hides (spec WIN-1; fault 42).
func TestHostile(t *testing.T) {
	outside := write(t, tree.File("secret", "x"))
	for name, test := range map[string]struct {
		headers []tar.Header
		refused bool
		want    []tree.Entry
	}{
		"out of Files":         {headers: []tar.Header{{Name: "Files/../../x", Typeflag: tar.TypeReg}, {Name: "Files/../x", Typeflag: tar.TypeReg}}},
		"into Files":           {headers: []tar.Header{{Name: "x/../Files/y", Typeflag: tar.TypeReg}}, want: []tree.Entry{tree.File("y", "", tree.Mode(0o755))}},
		"absolute":             {headers: []tar.Header{{Name: "/Files/y", Typeflag: tar.TypeReg}}, want: []tree.Entry{tree.File("y", "", tree.Mode(0o755))}},
		"absolute within":      {headers: []tar.Header{{Name: "Files//etc", Typeflag: tar.TypeReg}}, want: []tree.Entry{tree.File("etc", "", tree.Mode(0o755))}},
		"Files is a file":      {headers: []tar.Header{{Name: "Files", Typeflag: tar.TypeReg}}},
		"Files is a link":      {headers: []tar.Header{{Name: "Files", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "Files/y", Typeflag: tar.TypeReg}}, want: []tree.Entry{tree.File("y", "", tree.Mode(0o755))}},
		"hard link outside":    {headers: []tar.Header{{Name: "Files/y", Typeflag: tar.TypeLink, Linkname: "Files/../../" + outside + "/secret"}}, refused: true},
		"hard link to ignored": {headers: []tar.Header{{Name: "Hives/x", Typeflag: tar.TypeReg}, {Name: "Files/y", Typeflag: tar.TypeLink, Linkname: "Hives/x"}}, refused: true},
		"hard link absolute":   {headers: []tar.Header{{Name: "Files/y", Typeflag: tar.TypeLink, Linkname: outside + "/secret"}}, refused: true},
		"whiteout of nothing":  {headers: []tar.Header{{Name: "Files/.wh...", Typeflag: tar.TypeReg}}, refused: true},
		"through a link": {headers: []tar.Header{
			{Name: "Files/l", Typeflag: tar.TypeSymlink, Linkname: "Files/" + outside}, {Name: "Files/l/secret", Typeflag: tar.TypeReg},
		}, want: []tree.Entry{tree.Symlink("l", outside), tree.File(strings.TrimPrefix(outside, "/")+"/secret", "", tree.Mode(0o755))}},
	} {
		t.Run(name, func(t *testing.T) {
			cs, dir := double.New().ContentStore(), t.TempDir()
			desc := put(t, cs, ocispecs.MediaTypeImageLayer, raw(t, test.headers...))
			_, err := winlayers.NewApplier(cs, apply.New(cs)).Apply(winlayers.WithLayerMode(t.Context()), desc, bind(dir))
			if test.refused {
				require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
			} else {
				require.NoError(t, err)
			}
			if name == "through a link" {
				_, err := os.Stat(filepath.Join(dir, outside, "secret"))
				require.NoError(t, err, "the link is followed within the tree")
			} else {
				requireTree(t, dir, test.want...)
			}
			requireTree(t, outside, tree.File("secret", "x"))
		})
	}
}

// A wrapped applier keeps what it can do, and is asked for all that is not a layer of Windows (spec WIN-1, EXT-11).
func TestWrappedApplier(t *testing.T) {
	cs := double.New().ContentStore()
	simple := &recorder{}
	a := winlayers.NewApplier(cs, simple)
	_, ok := a.(snapshot.DetachedApplier)
	require.False(t, ok)
	_, err := a.Apply(t.Context(), ocispecs.Descriptor{MediaType: "x"}, nil)
	require.NoError(t, err)
	_, err = a.Apply(t.Context(), ocispecs.Descriptor{MediaType: images.MediaTypeDockerSchema2LayerZstd}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"x", ocispecs.MediaTypeImageLayerZstd}, simple.asked)

	desc := put(t, cs, ocispecs.MediaTypeImageLayer, pack(t, tree.Dir("Files"), tree.Dir("Files/d"), tree.File("Files/d/f", "x"), tree.Dir("Hives")))
	detached := &detachedRecorder{}
	d, ok := winlayers.NewApplier(cs, detached).(snapshot.DetachedApplier)
	require.True(t, ok)
	_, err = d.ApplyDetached(t.Context(), ocispecs.Descriptor{MediaType: images.MediaTypeDockerSchema2LayerZstd}, "")
	require.NoError(t, err)
	require.Equal(t, []string{"detached " + ocispecs.MediaTypeImageLayerZstd}, detached.asked)
	dir := t.TempDir()
	_, err = d.ApplyDetached(winlayers.LayerContext(t.Context(), "windows"), desc, dir)
	if err != nil {
		require.ErrorIs(t, err, snapshot.ErrNeedsParent) // an ordinary user's
	} else {
		requireTree(t, dir, tree.File("d/f", "x"))
	}
	require.Len(t, detached.asked, 1)

	// The options are those of the applier for Windows.
	device := tree.Char("Files/null", 1, 3)
	desc = put(t, cs, ocispecs.MediaTypeImageLayer, pack(t, tree.Dir("Files"), device, tree.File("Files/f", "x")))
	dir = t.TempDir()
	got, err := winlayers.NewApplier(cs, simple, apply.SquashOwners()).Apply(winlayers.WithLayerMode(t.Context()), desc, bind(dir))
	require.NoError(t, err)
	require.Equal(t, "true", got.Annotations[snapshot.AnnotationSquashed])
	requireTree(t, dir, tree.File("f", "x"))
}

type recorder struct{ asked []string }

func (r *recorder) Apply(_ context.Context, desc ocispecs.Descriptor, _ []mount.Mount, _ ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	r.asked = append(r.asked, desc.MediaType)
	return desc, nil
}

func (r *recorder) Compare(_ context.Context, _, _ []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error) {
	var c diff.Config
	for _, opt := range opts {
		if err := opt(&c); err != nil {
			return ocispecs.Descriptor{}, err
		}
	}
	r.asked = append(r.asked, c.Reference+" "+c.MediaType)
	return ocispecs.Descriptor{}, nil
}

type detachedRecorder struct{ recorder }

func (r *detachedRecorder) ApplyDetached(_ context.Context, desc ocispecs.Descriptor, _ string, _ ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	r.asked = append(r.asked, "detached "+desc.MediaType)
	return desc, nil
}

// A wrapped comparer is asked as it would be without the wrapper, but for a media type that it need not know (spec WIN-1).
func TestWrappedComparer(t *testing.T) {
	r := &recorder{}
	c := winlayers.NewComparer(double.New().ContentStore(), r)
	for _, opts := range [][]diff.Opt{
		nil, {diff.WithReference("a"), diff.WithMediaType("x")}, {diff.WithMediaType(images.MediaTypeDockerSchema2LayerZstd), diff.WithReference("b")},
	} {
		_, err := c.Compare(t.Context(), nil, nil, opts...)
		require.NoError(t, err)
	}
	require.Equal(t, []string{" ", "a x", "b " + ocispecs.MediaTypeImageLayerZstd}, r.asked)
	_, err := c.Compare(t.Context(), nil, nil, func(*diff.Config) error { return errdefs.ErrOutOfRange })
	require.ErrorIs(t, err, errdefs.ErrOutOfRange)
	require.Len(t, r.asked, 3)
}

// The entries of a layer, with the records that Windows needs (spec WIN-1).
func TestCompare(t *testing.T) {
	cs := double.New().ContentStore()
	lower := write(t, tree.File("gone", "x"))
	upper := write(t, tree.Dir("d", tree.Time(when)), tree.File("d/f", "content", tree.Time(when)), tree.Hardlink("d/g", "d/f"), tree.Symlink("s", "d/f", tree.Time(when)))
	require.NoError(t, os.Chtimes(filepath.Join(upper, "d"), when, when))
	ctx := winlayers.WithLayerMode(t.Context())
	c := winlayers.NewComparer(cs, differ.New(cs))
	desc, err := c.Compare(ctx, bind(lower), bind(upper), diff.WithMediaType(ocispecs.MediaTypeImageLayer))
	require.NoError(t, err)
	again, err := c.Compare(ctx, bind(lower), bind(upper), diff.WithMediaType(ocispecs.MediaTypeImageLayer))
	require.NoError(t, err)
	require.Equal(t, desc, again, "two exports are equal")

	const made, epoch = "1577934245.0", "0.0"
	want := []struct {
		name, link, created, attributes string
		kind                            byte
		mode                            int64
		sd                              bool
	}{
		{"Hives", "", epoch, "16", tar.TypeDir, 0o40000, false},
		{"Files", "", epoch, "16", tar.TypeDir, 0o40000, false},
		{"Files/d/", "", made, "16", tar.TypeDir, 0o40755, true},
		{"Files/d/f", "", made, "32", tar.TypeReg, 0o100644, true},
		{"Files/d/g", "Files/d/f", made, "", tar.TypeLink, 0o644, false},
		{"Files/.wh.gone", "", epoch, "32", tar.TypeReg, 0o100000, true},
		{"Files/s", "Files/d/f", made, "", tar.TypeSymlink, 0o777, false},
	}
	data, err := content.ReadBlob(ctx, cs, desc)
	require.NoError(t, err)
	tr := tar.NewReader(bytes.NewReader(data))
	for _, w := range want {
		hdr, err := tr.Next()
		require.NoError(t, err)
		require.Equal(t, w.name, hdr.Name)
		require.Equal(t, w.link, hdr.Linkname)
		require.Equal(t, fmt.Sprintf("%c %o", w.kind, w.mode), fmt.Sprintf("%c %o", hdr.Typeflag, hdr.Mode), w.name)
		require.Equal(t, w.created, hdr.PAXRecords["LIBARCHIVE.creationtime"], w.name)
		require.Equal(t, w.attributes, hdr.PAXRecords["MSWINDOWS.fileattr"], w.name)
		sd, err := base64.StdEncoding.DecodeString(hdr.PAXRecords["MSWINDOWS.rawsd"])
		require.NoError(t, err)
		require.Equal(t, w.sd, len(sd) > 0, w.name)
		if w.sd {
			require.Equal(t, []byte{1, 0, 4, 0x80, 20, 0}, sd[:6], "a self-relative descriptor, of revision 1, with an owner, a group and a list")
			require.Equal(t, w.kind == tar.TypeDir, len(sd) > 200, "directories have the longer list")
		}
	}
	_, err = tr.Next()
	require.ErrorIs(t, err, io.EOF)

	// And back.
	dir := write(t, tree.File("gone", "x"))
	_, err = winlayers.NewApplier(cs, apply.New(cs)).Apply(ctx, desc, bind(dir))
	require.NoError(t, err)
	requireTree(t, dir, tree.File("d/f", "content"), tree.Hardlink("d/g", "d/f"), tree.Symlink("s", "d/f"))
}
