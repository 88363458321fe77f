// Package plot draws line charts with two logarithmic axes as SVG. A chart follows the reader's preference for light or dark
// colours, and looks the same in a viewer that has none: it brings its own background.
package plot

import (
	"bytes"
	"encoding/xml"
	"math"
	"strconv"
	"strings"

	"github.com/pkg/errors"
)

// Chart is what to draw.
type Chart struct {
	Title string
	// XLabel and YLabel name the axes.
	XLabel, YLabel string
	// FormatX and FormatY word a value.
	FormatX, FormatY func(float64) string
	// Notes are lines in small print, for where and when it was measured.
	Notes []string
	// Series are the lines, at most MaxSeries.
	Series []Series
	// Guide, if not nil, is a faint line to compare the slopes of the others with.
	Guide *Series
}

// Series is a line through points, each of which is marked.
type Series struct {
	// Name is the line's entry in the legend, followed by Note.
	Name, Note string
	// Points are in the order in which the line goes through them.
	Points []Point
}

// Point is a measurement. Both values are positive, as others have no logarithm.
type Point struct{ X, Y float64 }

// MaxSeries is how many lines can be told apart: each has a colour, in both modes, a mark and a pattern of its own.
const MaxSeries = 2

// The size of a chart in its own units, and what is around the area of the lines.
const (
	width       = 720.
	areaHeight  = 300.
	left, right = 84., 28.
	titleHeight = 40.
	entryHeight = 20.
	noteHeight  = 16.
	below       = 60. // labels of the x axis and its name
	markRadius  = 4.
)

// style has plain declarations before those for dark mode, so that a viewer that knows no media queries draws it light.
const style = `
text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.muted { fill: #59636e; }
.note { font-size: 11px; fill: #59636e; }
.background { fill: #ffffff; }
.grid { stroke: #eaeef2; stroke-width: 1; }
.decade { stroke: #d1d9e0; }
.area { fill: none; stroke: #818b98; stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.guide { fill: none; stroke: #818b98; stroke-width: 1; stroke-dasharray: 2 4; }
.s0 { stroke: #bc4c00; } .m0 { fill: #bc4c00; }
.s1 { stroke: #0969da; } .m1 { fill: #0969da; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.muted, .note { fill: #9198a1; }
.background { fill: #0d1117; }
.grid { stroke: #21262d; }
.decade { stroke: #3d444d; }
.area, .guide { stroke: #7d8590; }
.s0 { stroke: #f0883e; } .m0 { fill: #f0883e; }
.s1 { stroke: #58a6ff; } .m1 { fill: #58a6ff; }
}
`

// validate finds what cannot be drawn.
func (c Chart) validate() error {
	if len(c.Series) > MaxSeries {
		return errors.Errorf("%d series, more than %d cannot be told apart", len(c.Series), MaxSeries)
	}
	if c.FormatX == nil || c.FormatY == nil {
		return errors.New("the values of an axis have no format")
	}
	points := 0
	for _, s := range c.lines() {
		points += len(s.Points)
		for _, p := range s.Points {
			for _, v := range []float64{p.X, p.Y} {
				if !(v > 0) || math.IsInf(v, 1) {
					return errors.Errorf("series %q: point (%g, %g) has no place on logarithmic axes", s.Name, p.X, p.Y)
				}
			}
		}
	}
	if points == 0 {
		return errors.New("there are no points to draw")
	}
	return nil
}

// lines are the series and the guide.
func (c Chart) lines() []Series {
	out := append([]Series{}, c.Series...)
	if c.Guide != nil {
		out = append(out, *c.Guide)
	}
	return out
}

// SVG returns the chart as an SVG document.
func (c Chart) SVG() ([]byte, error) {
	if err := c.validate(); err != nil {
		return nil, errors.Wrapf(err, "chart %q", c.Title)
	}
	top := titleHeight + entryHeight*float64(len(c.lines())) + 12
	height := top + areaHeight + below + noteHeight*float64(len(c.Notes))
	var xs, ys []float64
	for _, s := range c.lines() {
		for _, p := range s.Points {
			xs, ys = append(xs, p.X), append(ys, p.Y)
		}
	}
	d := drawing{
		chart: c, top: top, bottom: top + areaHeight,
		x: newAxis(xs, left, width-right), y: newAxis(ys, top+areaHeight, top),
	}
	root := element("svg",
		"xmlns", "http://www.w3.org/2000/svg", "viewBox", "0 0 "+pixels(width)+" "+pixels(height),
		"width", pixels(width), "height", pixels(height), "role", "img", "aria-label", c.Title)
	root.add(element("title").says(c.Title), element("style").says(style))
	root.add(element("rect", "class", "background", "width", "100%", "height", "100%"))
	d.legend(root)
	d.grid(root)
	if c.Guide != nil {
		root.add(element("polyline", "class", "guide", "points", d.path(c.Guide.Points)))
	}
	for i, s := range c.Series {
		d.series(root, i, s)
	}
	for i, note := range c.Notes {
		root.add(element("text", "class", "note", "x", pixels(left), "y", pixels(d.bottom+below+noteHeight*float64(i))).says(note))
	}
	return root.document()
}

// drawing is a chart with its measures.
type drawing struct {
	chart       Chart
	top, bottom float64 // of the area of the lines
	x, y        axis
}

// legend has a line for each series, as an entry may have more to say than a name.
func (d drawing) legend(root *node) {
	root.add(element("text", "class", "title", "x", pixels(left), "y", "26").says(d.chart.Title))
	const sample = 32.
	y := titleHeight + entryHeight/2
	for i, s := range d.chart.Series {
		root.add(
			element("line", "class", "line s"+strconv.Itoa(i), "x1", pixels(left), "y1", pixels(y), "x2", pixels(left+sample), "y2", pixels(y)),
			mark(i, left+sample/2, y),
			element("text", "class", "entry", "x", pixels(left+sample+8), "y", pixels(y+4)).says(s.Name+s.Note))
		y += entryHeight
	}
	if g := d.chart.Guide; g != nil {
		root.add(
			element("line", "class", "guide", "x1", pixels(left), "y1", pixels(y), "x2", pixels(left+sample), "y2", pixels(y)),
			element("text", "class", "entry muted", "x", pixels(left+sample+8), "y", pixels(y+4)).says(g.Name+g.Note))
	}
}

// grid draws the area, the axes and their lines.
func (d drawing) grid(root *node) {
	class := func(t tick) string {
		if t.decade {
			return "grid decade"
		}
		return "grid"
	}
	for _, t := range d.x.ticks() {
		x := pixels(d.x.at(t.value))
		root.add(element("line", "class", class(t), "x1", x, "y1", pixels(d.top), "x2", x, "y2", pixels(d.bottom)))
		if t.labelled {
			root.add(element("text", "class", "x muted", "x", x, "y", pixels(d.bottom+18), "text-anchor", "middle").says(d.chart.FormatX(t.value)))
		}
	}
	for _, t := range d.y.ticks() {
		y := d.y.at(t.value)
		root.add(element("line", "class", class(t), "x1", pixels(left), "y1", pixels(y), "x2", pixels(width-right), "y2", pixels(y)))
		if t.labelled {
			root.add(element("text", "class", "y muted", "x", pixels(left-8), "y", pixels(y+4), "text-anchor", "end").says(d.chart.FormatY(t.value)))
		}
	}
	root.add(
		element("rect", "class", "area", "x", pixels(left), "y", pixels(d.top), "width", pixels(width-left-right), "height", pixels(areaHeight)),
		element("text", "class", "muted", "x", pixels((left+width-right)/2), "y", pixels(d.bottom+40), "text-anchor", "middle").says(d.chart.XLabel),
		element("text", "class", "muted", "text-anchor", "middle",
			"transform", "translate(18 "+pixels((d.top+d.bottom)/2)+") rotate(-90)").says(d.chart.YLabel))
}

func (d drawing) series(root *node, i int, s Series) {
	if len(s.Points) == 0 {
		return
	}
	root.add(element("polyline", "class", "line s"+strconv.Itoa(i), "points", d.path(s.Points)))
	for _, p := range s.Points {
		m := mark(i, d.x.at(p.X), d.y.at(p.Y))
		m.add(element("title").says(s.Name + ", " + d.chart.FormatX(p.X) + ": " + d.chart.FormatY(p.Y)))
		root.add(m)
	}
}

func (d drawing) path(points []Point) string {
	at := make([]string, len(points))
	for i, p := range points {
		at[i] = pixels(d.x.at(p.X)) + "," + pixels(d.y.at(p.Y))
	}
	return strings.Join(at, " ")
}

// mark is a square for the first series and a circle for the second, so that they differ without colours as well.
func mark(series int, x, y float64) *node {
	class := "mark m" + strconv.Itoa(series)
	if series == 0 {
		return element("rect", "class", class, "x", pixels(x-markRadius), "y", pixels(y-markRadius), "width", pixels(2*markRadius), "height", pixels(2*markRadius))
	}
	return element("circle", "class", class, "cx", pixels(x), "cy", pixels(y), "r", pixels(markRadius))
}

// pixels prints a coordinate, exact to a hundredth.
func pixels(v float64) string {
	return strconv.FormatFloat(math.Round(v*100)/100, 'f', -1, 64)
}

// node is an element of the document.
type node struct {
	start    xml.StartElement
	text     string
	children []*node
}

// element takes attributes as names and values in turns.
func element(name string, attributes ...string) *node {
	n := &node{start: xml.StartElement{Name: xml.Name{Local: name}}}
	for i := 0; i < len(attributes); i += 2 {
		n.start.Attr = append(n.start.Attr, xml.Attr{Name: xml.Name{Local: attributes[i]}, Value: attributes[i+1]})
	}
	return n
}

func (n *node) says(text string) *node {
	n.text = text
	return n
}

func (n *node) add(children ...*node) { n.children = append(n.children, children...) }

// document encodes the tree below n, which the encoder keeps well-formed whatever the texts are.
func (n *node) document() ([]byte, error) {
	var b bytes.Buffer
	enc := xml.NewEncoder(&b)
	enc.Indent("", " ")
	if err := n.encode(enc); err != nil {
		return nil, err
	}
	if err := enc.Close(); err != nil {
		return nil, errors.WithStack(err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func (n *node) encode(enc *xml.Encoder) error {
	if err := enc.EncodeToken(n.start); err != nil {
		return errors.WithStack(err)
	}
	if n.text != "" {
		if err := enc.EncodeToken(xml.CharData(n.text)); err != nil {
			return errors.WithStack(err)
		}
	}
	for _, c := range n.children {
		if err := c.encode(enc); err != nil {
			return err
		}
	}
	return errors.WithStack(enc.EncodeToken(n.start.End()))
}
