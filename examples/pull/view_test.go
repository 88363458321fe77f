package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/console"
	"github.com/layercache/cache/snapshot"
)

// fakeTerminal shows what is written to it as a terminal of a size would: lines wrap, and scroll off at the top.
type fakeTerminal struct {
	t             testing.TB
	columns, rows int
	// screen are the rows seen, scrolled those that are not any more.
	screen, scrolled []string
	row, column      int
}

func newFakeTerminal(t testing.TB, columns, rows int) *fakeTerminal {
	return &fakeTerminal{t: t, columns: columns, rows: rows, screen: make([]string, rows)}
}

func (ft *fakeTerminal) size() (columns, rows int) { return ft.columns, ft.rows }

// Write implements io.Writer.
func (ft *fakeTerminal) Write(p []byte) (int, error) {
	for rest := string(p); rest != ""; {
		if sequence, ok := strings.CutPrefix(rest, "\x1b["); ok {
			end := strings.IndexFunc(sequence, func(r rune) bool { return r >= '@' })
			require.GreaterOrEqual(ft.t, end, 0, "%q", rest)
			ft.control(sequence[:end], sequence[end])
			rest = sequence[end+1:]
			continue
		}
		r, size := utf8.DecodeRuneInString(rest)
		rest = rest[size:]
		ft.put(r)
	}
	return len(p), nil
}

func (ft *fakeTerminal) control(argument string, command byte) {
	switch command {
	case 'A':
		var n int
		_, err := fmt.Sscan(argument, &n)
		require.NoError(ft.t, err)
		require.LessOrEqual(ft.t, n, ft.row, "the cursor cannot go up to what scrolled off")
		ft.row -= n
	case 'K':
		ft.screen[ft.row] = ft.screen[ft.row][:min(ft.column, len(ft.screen[ft.row]))]
	case 'J':
		ft.control("", 'K')
		for i := ft.row + 1; i < ft.rows; i++ {
			ft.screen[i] = ""
		}
	default:
		ft.t.Fatalf("unknown control sequence %q%c", argument, command)
	}
}

func (ft *fakeTerminal) put(r rune) {
	switch {
	case r == '\r':
		ft.column = 0
	case r == '\n':
		ft.down()
	default:
		require.GreaterOrEqual(ft.t, r, ' ', "a control character came through")
		if ft.column == ft.columns {
			ft.down()
		}
		line := []rune(ft.screen[ft.row] + strings.Repeat(" ", ft.columns))
		line[ft.column] = r
		ft.column++
		ft.screen[ft.row] = strings.TrimRight(string(line[:max(ft.column, utf8.RuneCountInString(ft.screen[ft.row]))]), "\x00")
	}
}

func (ft *fakeTerminal) down() {
	ft.column = 0
	if ft.row++; ft.row < ft.rows {
		return
	}
	ft.row--
	ft.scrolled = append(ft.scrolled, ft.screen[0])
	ft.screen = append(ft.screen[1:], "")
}

// text is everything that was shown, blanks at the ends of lines aside.
func (ft *fakeTerminal) text() string {
	var b strings.Builder
	for _, line := range append(append([]string{}, ft.scrolled...), ft.screen...) {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// digests returns valid digests whose short forms are easy to read.
func fakeImage(sizes ...int64) *image {
	img := &image{name: "app"}
	for i, size := range sizes {
		d := digest.NewDigestFromEncoded(digest.SHA256, strings.Repeat(fmt.Sprint(i+1), 64))
		img.layers = append(img.layers, ocispecs.Descriptor{Digest: d, Size: size})
	}
	return img
}

// manual is a view that is redrawn only when the test says so.
type manual struct{ console.View }

func (manual) Interval() time.Duration { return 0 }

// transfer plays what the cache does to fetch a blob.
func transfer(t testing.TB, m *meter, d digest.Digest, amounts ...int64) (end func(error)) {
	t.Helper()
	_, finish := m.controller(d).Start(t.Context())
	m.opened(d)
	for _, n := range amounts {
		m.arrived(d, n)
	}
	return func(err error) {
		m.closed(d)
		finish(err)
	}
}

// extraction plays what the cache does to unpack a blob.
func extraction(t testing.TB, m *meter, d digest.Digest) (end func(error)) {
	t.Helper()
	_, finish := m.controller(d).Start(t.Context())
	done := m.controller(d).Status("extracting "+d.String(), "extracting")
	return func(err error) {
		done()
		finish(err)
		finish(errors.New("a second call does nothing"))
	}
}

func TestPlainLines(t *testing.T) {
	var out bytes.Buffer
	img := fakeImage(1500, 20, 999_960)
	img.layers = append(img.layers, img.layers[1])
	m := newMeter(img, console.NewView(&out, nil))
	one, two, three := img.layers[0].Digest, img.layers[1].Digest, img.layers[2].Digest
	end := transfer(t, m, one, 700)
	m.arrived(one, 1500)
	end(nil)
	transfer(t, m, two, 20)(nil)
	extraction(t, m, one)(nil)
	extraction(t, m, two)(nil)
	transfer(t, m, three, 5)(errors.New("connection reset\x1b[31m"))
	transfer(t, m, three, 999_960)(nil)
	extraction(t, m, three)(errors.Wrap(snapshot.ErrNeedsParent, "a hard link"))
	extraction(t, m, three)(errors.New("two\nlines"))
	extraction(t, m, two)(nil)
	m.close()
	require.Equal(t, `layer 1/4  111111111111  pulling  0 B of 1.5 kB
layer 1/4  111111111111  pulled  1.5 kB
layer 2,4/4  222222222222  pulling  0 B of 20 B
layer 2,4/4  222222222222  pulled  20 B
layer 1/4  111111111111  extracting  1.5 kB
layer 1/4  111111111111  extracted  1.5 kB
layer 2,4/4  222222222222  extracting  20 B
layer 2,4/4  222222222222  extracted  20 B
layer 3/4  333333333333  pulling  0 B of 1.0 MB
layer 3/4  333333333333  failed: connection reset\x1b[31m
layer 3/4  333333333333  pulling  5 B of 1.0 MB
layer 3/4  333333333333  pulled  1.0 MB
layer 3/4  333333333333  extracting  1.0 MB
layer 3/4  333333333333  pulled  1.0 MB
layer 3/4  333333333333  extracting  1.0 MB
layer 3/4  333333333333  failed: two; lines
layer 2,4/4  222222222222  extracting  20 B
layer 2,4/4  222222222222  extracted  20 B
`, out.String())
	fetched, unpacked, n := summarize(m.all())
	require.Equal(t, []int64{3, 2, 1500 + 20 + 999_960}, []int64{int64(fetched), int64(unpacked), n})
}

func TestScreen(t *testing.T) {
	ft := newFakeTerminal(t, 80, 10)
	img := fakeImage(1000, 2000, 3000)
	m := newMeter(img, manual{console.NewView(ft, ft.size)})
	one, two, three := img.layers[0].Digest, img.layers[1].Digest, img.layers[2].Digest
	endOne, endThree := transfer(t, m, one), transfer(t, m, three)
	m.arrived(one, 500)
	m.arrived(three, 2999)
	m.view.Show(m.inFlight())
	require.Equal(t, `layer 1/3  111111111111  pulling  500 B of 1.0 kB  [==========          ]
layer 3/3  333333333333  pulling  3.0 kB of 3.0 kB  [=================== ]
`, ft.text(), "one line each, in the order of the image")

	endThree(nil)
	m.arrived(one, 1000)
	endOne(nil)
	extracted := extraction(t, m, one)
	endTwo := transfer(t, m, two, 200)
	m.view.Show(m.inFlight())
	require.Equal(t, `layer 1/3  111111111111  extracting  1.0 kB
layer 2/3  222222222222  pulling  200 B of 2.0 kB  [==                  ]
layer 3/3  333333333333  pulling  3.0 kB of 3.0 kB  [=================== ]
`, ft.text(), "a transfer that ended early is not over")

	extracted(nil)
	endTwo(errors.New("503\x1b[2J"))
	require.Equal(t, `layer 1/3  111111111111  extracted  1.0 kB
layer 2/3  222222222222  failed: 503\x1b[2J
layer 3/3  333333333333  pulling  3.0 kB of 3.0 kB  [=================== ]
`, ft.text(), "what is over stays, above what is not")

	transfer(t, m, three, 3000)(nil)
	extraction(t, m, three)(nil)
	m.close()
	require.Equal(t, `layer 1/3  111111111111  extracted  1.0 kB
layer 2/3  222222222222  failed: 503\x1b[2J
layer 3/3  333333333333  extracted  3.0 kB
`, ft.text())
}

// More layers than rows, and lines longer than the terminal is wide, are cut; nothing is drawn over that
// should stay.
func TestScreenSmallTerminal(t *testing.T) {
	const count = 9
	for _, size := range [][2]int{{40, 5}, {20, 2}, {10, 1}, {200, 50}} {
		t.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(t *testing.T) {
			ft := newFakeTerminal(t, size[0], size[1])
			img := fakeImage(make([]int64, count)...)
			for i := range img.layers {
				img.layers[i].Size = 100
			}
			m := newMeter(img, manual{console.NewView(ft, ft.size)})
			for _, desc := range img.layers {
				transfer(t, m, desc.Digest, 100)(nil)
			}
			if size[0] == 40 {
				require.Equal(t, "layer 1/9  111111111111  pulled  100 B\nlayer 2/9  222222222222  pulled  100 B\nlayer 3/9  333333333333  pulled  100 B\nand 6 more\n", ft.text())
			}
			for _, desc := range img.layers {
				extraction(t, m, desc.Digest)(nil)
			}
			m.close()
			all := strings.ReplaceAll(strings.Join(append(ft.scrolled, ft.screen...), ""), " ", "")
			for i := range img.layers {
				require.Equal(t, 1, strings.Count(all, fmt.Sprintf("layer%d/9", i+1)), "%s", ft.text())
			}
			require.NotContains(t, all, "more")
			require.NotContains(t, all, "pulled")
		})
	}
}

// The screen moves by itself while a transfer goes on.
func TestScreenMoves(t *testing.T) {
	pr, pw := io.Pipe()
	img := fakeImage(1000)
	m := newMeter(img, console.NewView(pw, func() (int, int) { return 80, 24 }))
	d := img.layers[0].Digest
	lines := make(chan string)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := pr.Read(buf)
			if err != nil {
				close(lines)
				return
			}
			lines <- string(buf[:n])
		}
	}()
	go transfer(t, m, d)
	require.Contains(t, <-lines, "0 B of 1.0 kB")
	go m.arrived(d, 123)
	for frame := range lines {
		if strings.Contains(frame, "123 B of 1.0 kB") {
			break
		}
	}
	go func() {
		m.close()
		_ = pw.Close()
	}()
	for frame := range lines {
		require.Contains(t, frame, "123 B of 1.0 kB")
	}
}

// A failing writer does not stop the work.
func TestViewOfClosedPipe(t *testing.T) {
	pr, pw := io.Pipe()
	require.NoError(t, pr.Close())
	img := fakeImage(10)
	m := newMeter(img, console.NewView(pw, nil))
	transfer(t, m, img.layers[0].Digest, 10)(nil)
	m.close()
	require.Equal(t, pulled, m.all()[0].phase)
}
