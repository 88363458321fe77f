package plot

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
)

// shape is an element as a reader of the document sees it.
type shape struct {
	name       string
	attributes map[string]string
	text       string
}

func (s shape) number(t *testing.T, attribute string) float64 {
	v, err := strconv.ParseFloat(s.attributes[attribute], 64)
	require.NoError(t, err, "%s of %v", attribute, s)
	return v
}

// parse reads a document to its end, which fails unless it is well-formed.
func parse(t *testing.T, document []byte) []*shape {
	d := xml.NewDecoder(strings.NewReader(string(document)))
	var all, open []*shape
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			require.Empty(t, open)
			return all
		}
		require.NoError(t, err)
		switch v := token.(type) {
		case xml.StartElement:
			s := &shape{name: v.Name.Local, attributes: map[string]string{}}
			require.Equal(t, "http://www.w3.org/2000/svg", v.Name.Space)
			for _, a := range v.Attr {
				require.NotContains(t, s.attributes, a.Name.Local)
				s.attributes[a.Name.Local] = a.Value
			}
			all, open = append(all, s), append(open, s)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				open[len(open)-1].text += string(v)
			}
		}
	}
}

func find(all []*shape, name, class string) (out []*shape) {
	for _, s := range all {
		if s.name == name && s.attributes["class"] == class {
			out = append(out, s)
		}
	}
	return out
}

func chart(series ...Series) Chart {
	word := func(v float64) string { return fmt.Sprintf("%g", v) }
	return Chart{Title: "a chart", XLabel: "records", YLabel: "time", FormatX: word, FormatY: word, Notes: []string{"here", "today"}, Series: series}
}

func draw(t *testing.T, c Chart) []*shape {
	document, err := c.SVG()
	require.NoError(t, err)
	return parse(t, document)
}

// A corner of the area belongs to the ends of both axes, the middle to their geometric means.
func TestPointsAreWhereTheyBelong(t *testing.T) {
	all := draw(t, chart(
		Series{Name: "a", Points: []Point{{100, 1}, {1000, 100}, {10_000, 10_000}}},
		Series{Name: "b", Points: []Point{{100, 10_000}, {1000, 10}}},
	))
	require.Equal(t, "svg", all[0].name)
	areas := find(all, "rect", "area")
	require.Len(t, areas, 1)
	x, y := areas[0].number(t, "x"), areas[0].number(t, "y")
	w, h := areas[0].number(t, "width"), areas[0].number(t, "height")

	squares := find(all, "rect", "mark m0")[1:] // the first is in the legend
	require.Len(t, squares, 3)
	for i, want := range []Point{{x, y + h}, {x + w/2, y + h/2}, {x + w, y}} {
		require.InDelta(t, want.X, squares[i].number(t, "x")+squares[i].number(t, "width")/2, 0.02)
		require.InDelta(t, want.Y, squares[i].number(t, "y")+squares[i].number(t, "height")/2, 0.02)
	}
	circles := find(all, "circle", "mark m1")[1:]
	require.Len(t, circles, 2)
	for i, want := range []Point{{x, y}, {x + w/2, y + h*3/4}} {
		require.InDelta(t, want.X, circles[i].number(t, "cx"), 0.02)
		require.InDelta(t, want.Y, circles[i].number(t, "cy"), 0.02)
	}

	lines := find(all, "polyline", "line s0")
	require.Len(t, lines, 1)
	var through []string
	for _, s := range squares {
		through = append(through, pixels(s.number(t, "x")+markRadius)+","+pixels(s.number(t, "y")+markRadius))
	}
	require.Equal(t, strings.Join(through, " "), lines[0].attributes["points"], "the line goes through the marks")
}

// Every label stands at its value, and all of the drawing is within its frame.
func TestAxes(t *testing.T) {
	all := draw(t, chart(Series{Points: []Point{{1000, 3}, {100_000, 4_000_000}}}))
	area := find(all, "rect", "area")[0]
	x, w, y, h := area.number(t, "x"), area.number(t, "width"), area.number(t, "y"), area.number(t, "height")
	var labels []string
	for _, s := range find(all, "text", "x muted") {
		v, err := strconv.ParseFloat(s.text, 64)
		require.NoError(t, err)
		require.InDelta(t, x+w*math.Log10(v/1000)/2, s.number(t, "x"), 0.02)
		labels = append(labels, s.text)
	}
	require.Equal(t, []string{"1000", "2000", "5000", "10000", "20000", "50000", "100000"}, labels)
	labels = nil
	for _, s := range find(all, "text", "y muted") {
		v, err := strconv.ParseFloat(s.text, 64)
		require.NoError(t, err)
		// The axis goes from 2 to 5e6, and a label's base line is below its middle.
		require.InDelta(t, y+h-h*math.Log10(v/2)/math.Log10(5e6/2), s.number(t, "y")-4, 0.02)
		labels = append(labels, s.text)
	}
	require.Equal(t, []string{"10", "100", "1000", "10000", "100000", "1e+06"}, labels, "a long axis has labels at powers of ten only")

	frameWidth, frameHeight := all[0].number(t, "width"), all[0].number(t, "height")
	for _, s := range all {
		for attribute, limit := range map[string]float64{
			"x": frameWidth, "x1": frameWidth, "x2": frameWidth, "cx": frameWidth,
			"y": frameHeight, "y1": frameHeight, "y2": frameHeight, "cy": frameHeight,
		} {
			if _, ok := s.attributes[attribute]; ok {
				require.GreaterOrEqual(t, s.number(t, attribute), 0., "%v", s)
				require.LessOrEqual(t, s.number(t, attribute), limit, "%v", s)
			}
		}
	}
}

// Texts are not markup, each series has its entry, and a point tells its values.
func TestTexts(t *testing.T) {
	c := chart(
		Series{Name: `peer <ended> & "gone"`, Points: []Point{{10, 20}}},
		Series{Name: "ours", Note: ", alone", Points: []Point{{10, 30}}})
	c.Title = "a < b & c"
	c.Guide = &Series{Name: "in proportion", Points: []Point{{10, 20}, {20, 40}}}
	all := draw(t, c)
	entries := find(all, "text", "entry")
	require.Len(t, entries, 2)
	require.Equal(t, c.Series[0].Name, entries[0].text)
	require.Equal(t, "ours, alone", entries[1].text)
	require.Equal(t, "in proportion", find(all, "text", "entry muted")[0].text)
	require.Equal(t, c.Title, find(all, "text", "title")[0].text)
	require.Equal(t, c.Title, all[0].attributes["aria-label"])
	notes := find(all, "text", "note")
	require.Len(t, notes, 2)
	require.Equal(t, "today", notes[1].text)
	require.Greater(t, notes[1].number(t, "y"), notes[0].number(t, "y"))
	var told []string
	for _, s := range find(all, "title", "") {
		told = append(told, s.text)
	}
	require.Equal(t, []string{c.Title, c.Series[0].Name + ", 10: 20", "ours, 10: 30"}, told)
	require.Len(t, find(all, "polyline", "guide"), 1)
	require.Empty(t, find(all, "script", ""))
}

// Whatever has a colour has one in dark mode, too.
func TestBothModes(t *testing.T) {
	css := find(draw(t, chart(Series{Points: []Point{{1, 1}}})), "style", "")[0].text
	light, dark, found := strings.Cut(css, "@media (prefers-color-scheme: dark)")
	require.True(t, found)
	for _, class := range []string{"text", ".muted", ".note", ".background", ".grid", ".decade", ".area", ".guide", ".s0", ".m0", ".s1", ".m1"} {
		require.Contains(t, light, class+" {")
		require.Regexp(t, `(?m)(^|\s)`+strings.ReplaceAll(class, ".", `\.`)+`[ ,]`, dark)
	}
}

func TestWhatCannotBeDrawn(t *testing.T) {
	for text, c := range map[string]Chart{
		"no points":             chart(Series{Name: "empty"}),
		"no place":              chart(Series{Points: []Point{{1, 0}}}),
		"(-1, 1) has no place":  chart(Series{Points: []Point{{-1, 1}}}),
		"(1, NaN) has no place": chart(Series{Points: []Point{{1, math.NaN()}}}),
		"(+Inf, 1)":             chart(Series{Points: []Point{{math.Inf(1), 1}}}),
		"3 series":              chart(Series{}, Series{}, Series{}),
		"no format":             {Series: []Series{{Points: []Point{{1, 1}}}}},
	} {
		_, err := c.SVG()
		require.ErrorContains(t, err, text)
	}
}

// The ends of an axis are the nearest steps around the values, however small or large these are.
func TestAxisEnds(t *testing.T) {
	for _, c := range []struct{ from, to, lo, hi float64 }{
		{1000, 100_000, 1000, 100_000},
		{1001, 99_999, 1000, 100_000},
		{999, 100_001, 500, 200_000},
		{7, 7, 5, 10},
		{5, 5, 5, 10},
		{1, 1, 1, 2},
		{2e-7, 3e-3, 2e-7, 5e-3},
		{1e15, 6e18, 1e15, 1e19},
	} {
		a := newAxis([]float64{c.to, c.from}, 0, 100)
		require.InEpsilon(t, c.lo, a.lo, 1e-12, "%+v", c)
		require.InEpsilon(t, c.hi, a.hi, 1e-12, "%+v", c)
		require.InDelta(t, 0, a.at(a.lo), 1e-9)
		require.InDelta(t, 100, a.at(a.hi), 1e-9)
		ticks := a.ticks()
		require.GreaterOrEqual(t, len(ticks), 2)
		require.InDelta(t, a.lo, ticks[0].value, 0)
		require.InDelta(t, a.hi, ticks[len(ticks)-1].value, 0)
	}
}
