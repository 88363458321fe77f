package cache

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Names in shared memory are what they were made of, however many follow and however long they are.
func TestTextBlocks(t *testing.T) {
	for _, size := range []int{0, 8, 1 << 10} {
		blocks := textBlocks{size: size}
		var want, got []string
		for i := range 500 {
			text := []byte(fmt.Sprint(i, strings.Repeat("x", i%40)))
			want = append(want, string(text))
			got = append(got, blocks.add(text))
			clear(text) // a page of the database that is no more
		}
		require.Equal(t, want, got, size)
		require.Empty(t, blocks.add(nil))
	}
}

// One copy does for what many rows say alike, as long as these are few.
func TestCommonTexts(t *testing.T) {
	d := newRowReader()
	require.Equal(t, "regular", d.common([]byte(`"regular"`)))
	require.Equal(t, `with "quotes"`, d.common([]byte(`"with \"quotes\""`)))
	require.Empty(t, d.common([]byte(`17`)))
	for i := range 2 * maxTexts {
		require.Equal(t, fmt.Sprint(i), d.common(fmt.Appendf(nil, "%q", fmt.Sprint(i))))
	}
	require.Len(t, d.texts, maxTexts)
	again := []byte(`"regular"`)
	allocs := testing.AllocsPerRun(100, func() { d.common(again) })
	require.Zero(t, allocs)
	require.Equal(t, "single", new(rowReader).common([]byte(`"single"`)))
}
