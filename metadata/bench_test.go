package metadata

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkWrite creates a record of six keys per operation and reports how many of the
// operations share a transaction.
func BenchmarkWrite(b *testing.B) {
	for _, goroutines := range []int{1, 8} {
		b.Run(fmt.Sprintf("goroutines=%d", goroutines), func(b *testing.B) {
			s, db := newStore(b)
			var n atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(max(1, goroutines/2)) // of GOMAXPROCS each
			write := func() {
				if err := s.Write(func(w *Writer) error { return fill(w, fmt.Sprintf("record-%09d", n.Add(1))) }); err != nil {
					b.Error(err)
				}
			}
			if goroutines == 1 {
				for b.Loop() {
					write()
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						write()
					}
				})
			}
			b.ReportMetric(float64(db.committed())/float64(b.N), "tx/op")
		})
	}
}

// fill creates a record such as the cache makes.
func fill(w *Writer, id string) error {
	r, err := w.Create(id)
	if err != nil {
		return err
	}
	for _, err := range []error{
		r.Set("cache.createdAt", int64(1_700_000_000_000_000_000), ""),
		r.Set("cache.description", "layer of the benchmark", ""),
		r.Set("cache.snapshot", id, ""),
		r.Set("snapshot.committed", true, ""),
		r.Set("snapshot.size", int64(-1), ""),
		r.Set("cache.chainID", "sha256:"+id, "chainid:sha256:"+id),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// filled returns the path of a closed database with n records.
func filled(b *testing.B, n int) string {
	path := filepath.Join(b.TempDir(), "metadata_v2.db")
	s, err := NewStore(path)
	require.NoError(b, err)
	require.NoError(b, s.Write(func(w *Writer) error {
		for i := range n {
			if err := fill(w, fmt.Sprintf("record-%09d", i)); err != nil {
				return err
			}
		}
		return nil
	}))
	require.NoError(b, s.Close())
	return path
}

// BenchmarkScan reads all values of 10000 records.
func BenchmarkScan(b *testing.B) {
	s, err := NewStore(filled(b, 10000))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		n := 0
		if err := s.Scan(func(_ []byte, row RowView) error {
			return row.Each(func(_ []byte, v RawValue) error {
				n += len(v.Raw())
				return nil
			})
		}); err != nil || n == 0 {
			b.Fatal(n, err)
		}
	}
	require.NoError(b, s.Close())
}

// BenchmarkOpen opens and closes a database of 10000 records, verifying it.
func BenchmarkOpen(b *testing.B) {
	path := filled(b, 10000)
	b.ReportAllocs()
	for b.Loop() {
		s, err := NewStore(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGet reads one value through an item.
func BenchmarkGet(b *testing.B) {
	s, err := NewStore(filled(b, 1000))
	require.NoError(b, err)
	it, _ := s.Get("record-000000500")
	b.ReportAllocs()
	for b.Loop() {
		if it.Get("cache.snapshot") == nil {
			b.Fatal("no value")
		}
	}
	require.NoError(b, s.Close())
}
