package otelcache

import (
	"slices"
	"strings"
)

// Metric describes a metric.
type Metric struct {
	// Name is its name, by OpenTelemetry's conventions.
	Name string
	// Instrument is "counter", "histogram" or "up-down counter".
	Instrument string
	// Unit is in UCUM: "s", "By", or what is counted in braces.
	Unit string
	// Description says what the metric means.
	Description string
	// Attributes are the keys that its points may have.
	Attributes []string
}

// Keys of attributes. Values are words of a few dozen altogether, but for that of AttrAddress.
const (
	// AttrResult is "hit" or "miss" of a lookup, "fetched", "shared" or "local" of a pull.
	AttrResult = "layercache.result"
	// AttrCause is how a record was found or why not.
	AttrCause = "layercache.cause"
	// AttrOrigin is what a new record was made of: "written", "blob", "merge", "diff".
	AttrOrigin = "layercache.record.origin"
	// AttrState, AttrKind and AttrType are those of cache.Total.
	AttrState = "layercache.record.state"
	AttrKind  = "layercache.record.kind"
	AttrType  = "layercache.record.type"
	// AttrReason is why a record was removed or repaired.
	AttrReason = "layercache.reason"
	// AttrRule is which rule of a prune's policy made a record go.
	AttrRule = "layercache.prune.rule"
	// AttrOperation is what was done.
	AttrOperation = "layercache.operation"
	// AttrPool is what was waited for.
	AttrPool = "layercache.wait.pool"
	// AttrCompression is that of a blob that was made.
	AttrCompression = "layercache.compression"
	// AttrRef is "mutable" or "immutable".
	AttrRef = "layercache.ref.kind"
	// AttrAddress is the host that a blob came from, and AttrPort its port.
	AttrAddress = "server.address"
	AttrPort    = "server.port"
	// AttrError is the category of the error that something ended with.
	AttrError = "error.type"
)

// Names of the metrics; see Metrics.
const (
	MetricLookups    = "layercache.lookups"
	MetricCreated    = "layercache.record.created"
	MetricRemoved    = "layercache.record.removed"
	MetricRecovered  = "layercache.record.recovered"
	MetricDuration   = "layercache.operation.duration"
	MetricBlobIO     = "layercache.blob.io"
	MetricWait       = "layercache.wait.duration"
	MetricFreed      = "layercache.prune.freed"
	MetricLeaked     = "layercache.ref.leaked"
	MetricRecords    = "layercache.record.count"
	MetricInUse      = "layercache.record.in_use"
	MetricUnmeasured = "layercache.record.unmeasured"
	MetricSize       = "layercache.record.size"
	MetricRefs       = "layercache.ref.count"
	MetricMounts     = "layercache.mount.count"
)

const (
	counter   = "counter"
	histogram = "histogram"
	upDown    = "up-down counter"
)

var metrics = []Metric{
	{
		MetricLookups, counter, "{lookup}",
		"Records that were asked for by ID or by blob, and whether there was one.",
		[]string{AttrResult, AttrCause},
	},
	{
		MetricCreated, counter, "{record}",
		"Records that were made, also those that failed to be.",
		[]string{AttrOrigin, AttrError},
	},
	{
		MetricRemoved, counter, "{record}",
		"Records that were removed, by a prune or because nobody wanted them kept after their last ref.",
		[]string{AttrReason, AttrRule, AttrError},
	},
	{
		MetricRecovered, counter, "{record}",
		"Records that a start repaired or dropped, since the process before had died.",
		[]string{AttrReason},
	},
	{
		MetricDuration, histogram, "s",
		"How long operations took, waits included.",
		[]string{AttrOperation, AttrResult, AttrError},
	},
	{
		MetricBlobIO, counter, "By",
		"Bytes of blobs that were pulled, unpacked, packed, converted or exported, as they are compressed.",
		[]string{AttrOperation, AttrCompression, AttrAddress, AttrPort},
	},
	{
		MetricWait, histogram, "s",
		"How long operations waited for others; those that did not have to wait are not counted.",
		[]string{AttrPool, AttrError},
	},
	{
		MetricFreed, counter, "By",
		"Bytes that came free by prunes.",
		[]string{AttrRule},
	},
	{
		MetricLeaked, counter, "{ref}",
		"Refs that were garbage-collected without having been released; counted only while holders are tracked.",
		[]string{AttrRef},
	},
	{
		MetricRecords, upDown, "{record}",
		"Records that there are.",
		[]string{AttrState, AttrKind, AttrType},
	},
	{
		MetricInUse, upDown, "{record}",
		"Records that a ref leads to, which no prune removes.",
		[]string{AttrState, AttrKind, AttrType},
	},
	{
		MetricUnmeasured, upDown, "{record}",
		"Records whose size is not known, and not in " + MetricSize + ".",
		[]string{AttrState, AttrKind, AttrType},
	},
	{
		MetricSize, upDown, "By",
		"What the records occupy, as far as it was measured.",
		[]string{AttrState, AttrKind, AttrType},
	},
	{
		MetricRefs, upDown, "{ref}",
		"Refs that are held, those of operations under way included.", nil,
	},
	{
		MetricMounts, upDown, "{mount}",
		"Records whose mounts are remembered.", nil,
	},
}

// Metrics lists the metrics in the order of docs/operations.md.
func Metrics() []Metric {
	out := slices.Clone(metrics)
	for i := range out {
		out[i].Attributes = slices.Clone(out[i].Attributes)
	}
	return out
}

// Table is Metrics as a table in Markdown, with a line break at the end of each line.
func Table() string {
	var sb strings.Builder
	sb.WriteString("| metric | instrument | unit | attributes | meaning |\n|---|---|---|---|---|\n")
	for _, m := range metrics {
		attrs := make([]string, len(m.Attributes))
		for i, a := range m.Attributes {
			attrs[i] = "`" + a + "`"
		}
		sb.WriteString("| `" + m.Name + "` | " + m.Instrument + " | `" + m.Unit + "` | " + strings.Join(attrs, ", ") + " | " + m.Description + " |\n")
	}
	return sb.String()
}

func described(name string) Metric {
	return metrics[slices.IndexFunc(metrics, func(m Metric) bool { return m.Name == name })]
}
