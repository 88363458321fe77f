package apply_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/diff"
	ctdapply "github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// BenchmarkApply unpacks a layer of 5000 files of 4 KiB in 100 directories: with this package and with containerd's applier, on a plain
// directory and on an overlay.
func BenchmarkApply(b *testing.B) {
	need.Overlay(b)
	var entries []tree.Entry
	data := make([]byte, 4096)
	for i := range data {
		data[i] = byte(i*i>>5) ^ byte(i)
	}
	for d := range 100 {
		entries = append(entries, tree.Dir(fmt.Sprintf("usr/d%d", d)))
		for f := range 50 {
			copy(data, fmt.Sprintf("%d %d", d, f))
			entries = append(entries, tree.File(fmt.Sprintf("usr/d%d/f%d", d, f), string(data)))
		}
	}
	archive := pack(b, append([]tree.Entry{tree.Dir("usr")}, entries...)...)
	for _, form := range []struct {
		name string
		blob []byte
	}{{"gzip", gz(b, archive)}, {"zstd", zst(b, archive)}, {"plain", archive}} {
		store := &blobs{}
		desc := store.put(form.blob, layerType+"+gzip")
		if form.name == "plain" {
			desc.MediaType = layerType
		}
		for _, side := range []struct {
			name    string
			applier diff.Applier
		}{{"ours", apply.New(store)}, {"containerd", ctdapply.NewFileSystemApplier(store)}} {
			for _, kind := range []string{"bind", "overlay"} {
				b.Run(form.name+"/"+kind+"/"+side.name, func(b *testing.B) {
					root := b.TempDir()
					b.SetBytes(int64(len(archive)))
					b.ReportAllocs()
					n := 0
					for b.Loop() {
						b.StopTimer()
						n++
						dir := filepath.Join(root, fmt.Sprint(n))
						o := &overlay{lower: dir + "/lower", upper: dir + "/upper", work: dir + "/work"}
						for _, d := range []string{o.lower, o.upper, o.work} {
							require.NoError(b, os.MkdirAll(d, 0o755))
						}
						mounts := o.mounts()
						if kind == "bind" {
							mounts = bind(o.upper)
						}
						b.StartTimer()
						_, err := side.applier.Apply(b.Context(), desc, mounts)
						b.StopTimer()
						require.NoError(b, err)
						require.NoError(b, os.RemoveAll(dir))
						b.StartTimer()
					}
				})
			}
		}
	}
}
