package cache

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/layertype"
	"github.com/layercache/cache/metadata"
)

// rowReader decodes rows, one after the other. The zero value is for a single one.
type rowReader struct {
	// names and links keep IDs of the rows, and of those they name, which are not needed for long.
	names, links textBlocks
	// texts holds what many rows say alike, of which one copy will do; nil for none.
	texts map[string]string
	blob  graph.Blob // of the row being read
}

// newRowReader returns one for very many rows.
func newRowReader() *rowReader {
	// A block stays while anybody has a name in it, so that those of names are small.
	const nameBlock, linkBlock = 1 << 10, 1 << 16
	return &rowReader{
		names: textBlocks{size: nameBlock}, links: textBlocks{size: linkBlock}, texts: map[string]string{},
	}
}

// maxTexts bounds rowReader.texts: descriptions repeat themselves, but need not.
const maxTexts = 4096

// textBlocks makes strings that share memory with others made before and after. The zero value makes
// strings of their own.
type textBlocks struct {
	size  int
	block strings.Builder
}

func (t *textBlocks) add(text []byte) string {
	if len(text) > t.size {
		return string(text)
	}
	if t.block.Cap()-t.block.Len() < len(text) {
		t.block.Reset()
		t.block.Grow(t.size)
	}
	at := t.block.Len()
	t.block.Write(text)
	return t.block.String()[at:]
}

// readRow decodes one row.
func readRow(id string, view metadata.RowView) (*row, error) {
	r := &row{meta: &graph.Meta{}}
	return r, new(rowReader).read(r, []byte(id), view)
}

// read decodes the known keys of a row into r and r.meta, which are zero; all others stay where they are.
func (d *rowReader) read(r *row, id []byte, view metadata.RowView) error {
	r.meta.ID, r.meta.Size = d.names.add(id), sizeUnknown
	d.blob = graph.Blob{Size: sizeUnknown}
	err := view.Each(func(key []byte, v metadata.RawValue) error {
		d.set(r, key, v.Raw())
		return nil
	})
	if err != nil {
		return err
	}
	if b := &d.blob; b.Digest != "" || b.DiffID != "" || b.ChainID != "" || b.Only {
		if b.LayerIdentity == "" { // databases from before layer identities (spec INIT-9)
			b.LayerIdentity = b.DiffID
		}
		known := *b // most records have none, and need not pay for one
		r.meta.Blob = &known
	}
	if r.kind().Derived() && r.meta.Size == 0 { // BuildKit measures what is not there yet (quirk Q35)
		r.meta.Size = sizeUnknown
	}
	if r.meta.SnapshotID == "" { // historic databases (spec REC-8, OLD-2)
		r.meta.SnapshotID = r.meta.ID
	}
	return nil
}

// set decodes one value. One of the wrong type counts as absent (spec META-13).
func (d *rowReader) set(r *row, key, raw []byte) {
	m := r.meta
	switch string(key) {
	case keyCreatedAt:
		m.CreatedAt = jsonInt(raw, 0)
	case keyLastUsedAt:
		m.LastUsedAt = jsonInt(raw, 0)
	case keyUsageCount:
		m.UsageCount = int(jsonInt(raw, 0))
	case keyDescription:
		m.Description = d.common(raw)
	case keyRecordType:
		m.RecordType = d.common(raw)
	case keyLayerType:
		m.LayerType = d.common(raw)
	case keyCachePolicy:
		m.Retain = jsonInt(raw, policyDefault) == policyRetain
	case keySize:
		m.Size = jsonInt(raw, sizeUnknown)
	case keyCommitted:
		r.committed = jsonBool(raw)
	case keyEqualMutable:
		r.equalMutable = d.link(raw)
	case keySnapshot:
		if text, ok := plainText(raw); ok && string(text) == m.ID {
			m.SnapshotID = m.ID // one string instead of two
		} else {
			m.SnapshotID = jsonString(raw)
		}
	case keyParent:
		r.parent = d.link(raw)
	case keyMergeParents:
		r.mergeParents = jsonStrings(raw)
	case keyLowerDiff:
		r.lower = d.link(raw)
	case keyUpperDiff:
		r.upper = d.link(raw)
	case keyImageRefs:
		m.ImageRefs = jsonStrings(raw)
	case keyDeleted:
		r.deleted = jsonBool(raw)
	case keyPinned:
		m.Pinned = jsonBool(raw)
	case keyUnsynced:
		r.unsynced = d.common(raw)
	default:
		d.setBlob(key, raw)
	}
}

func (d *rowReader) setBlob(key, raw []byte) {
	b := &d.blob
	switch string(key) {
	case keyDiffID:
		b.DiffID = jsonString(raw)
	case keyLayerIdentity:
		b.LayerIdentity = jsonString(raw)
	case keyChainID:
		b.ChainID = jsonString(raw)
	case keyBlobChainID:
		b.BlobChainID = jsonString(raw)
	case keyBlob:
		b.Digest = jsonString(raw)
	case keyBlobOnly:
		b.Only = jsonBool(raw)
	case keyBlobSize:
		b.Size = jsonInt(raw, sizeUnknown)
	case keyMediaType:
		b.MediaType = d.common(raw)
		b.Common = layertype.Common(b.MediaType)
	case keyURLs:
		b.URLs = jsonStrings(raw)
	}
}

// common decodes a JSON string of which many records have the same, and keeps one copy.
func (d *rowReader) common(raw []byte) string {
	if text, ok := plainText(raw); ok {
		if have, ok := d.texts[string(text)]; ok {
			return have
		}
	}
	s := jsonString(raw)
	if d.texts != nil && s != "" && len(d.texts) < maxTexts {
		d.texts[s] = s
	}
	return s
}

// link decodes the name of another row.
func (d *rowReader) link(raw []byte) string {
	if text, ok := plainText(raw); ok {
		return d.links.add(text)
	}
	return jsonString(raw)
}

func jsonInt(raw []byte, otherwise int64) int64 {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return otherwise
	}
	return n
}

func jsonBool(raw []byte) bool { return string(raw) == "true" }

// plainText cuts out a JSON string without escapes, as nearly all are.
func plainText(raw []byte) ([]byte, bool) {
	n := len(raw)
	if n < 2 || raw[0] != '"' || raw[n-1] != '"' || bytes.IndexByte(raw[1:n-1], '"') >= 0 || bytes.IndexByte(raw, '\\') >= 0 {
		return nil, false
	}
	return raw[1 : n-1], true
}

func jsonString(raw []byte) string {
	if text, ok := plainText(raw); ok {
		return string(text)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

func jsonStrings(raw []byte) []string {
	var s []string
	if json.Unmarshal(raw, &s) != nil {
		return nil
	}
	return s
}
