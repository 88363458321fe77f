package cache

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/internal/layertype"
	"github.com/layercache/cache/metadata"
)

// This file translates between rows and their typed form.

// row is a record as the database holds it.
type row struct {
	meta         graph.Meta
	committed    bool
	deleted      bool
	equalMutable string
	parent       string
	mergeParents []string
	lower, upper string
	// unsynced is the boot under which the tree was written without being synced since; "" for none.
	unsynced string
}

// kind derives the structural kind from the parents alone (spec REC-1).
func (r *row) kind() graph.Kind {
	switch {
	case len(r.mergeParents) > 0:
		return graph.Merge
	case r.lower != "" || r.upper != "":
		return graph.Diff
	case r.parent != "":
		return graph.Layer
	}
	return graph.BaseLayer
}

// mutable follows REC-2: merges and diffs are immutable even where the flag is missing (OLD-2).
func (r *row) mutable() bool {
	return !r.committed && !r.kind().Derived()
}

// parents returns the parents' IDs as graph.Record orders them.
func (r *row) parents() []string {
	switch r.kind() {
	case graph.Merge:
		return r.mergeParents
	case graph.Diff:
		return []string{r.lower, r.upper}
	case graph.Layer:
		return []string{r.parent}
	case graph.BaseLayer:
	}
	return nil
}

// readRow decodes the known keys of a row; all others stay where they are.
func readRow(id string, view metadata.RowView, interned map[string]string) (*row, error) {
	r := &row{meta: graph.Meta{ID: id, Size: sizeUnknown}}
	var blob graph.Blob
	blob.Size = sizeUnknown
	err := view.Each(func(key []byte, v metadata.RawValue) error {
		r.set(&blob, string(key), v.Raw(), interned)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if blob.Digest != "" || blob.DiffID != "" || blob.ChainID != "" || blob.Only {
		if blob.LayerIdentity == "" { // databases from before layer identities (spec INIT-9)
			blob.LayerIdentity = blob.DiffID
		}
		known := blob // most records have none, and need not pay for one
		r.meta.Blob = &known
	}
	if r.kind().Derived() && r.meta.Size == 0 { // BuildKit measures what is not there yet (quirk Q35)
		r.meta.Size = sizeUnknown
	}
	if r.meta.SnapshotID == "" { // historic databases (spec REC-8, OLD-2)
		r.meta.SnapshotID = id
	}
	return r, nil
}

// set decodes one value. One of the wrong type counts as absent (spec META-13).
func (r *row) set(blob *graph.Blob, key string, raw []byte, interned map[string]string) {
	m := &r.meta
	switch key {
	case keyCreatedAt:
		m.CreatedAt = jsonInt(raw, 0)
	case keyLastUsedAt:
		m.LastUsedAt = jsonInt(raw, 0)
	case keyUsageCount:
		m.UsageCount = int(jsonInt(raw, 0))
	case keyDescription:
		m.Description = jsonString(raw)
	case keyRecordType:
		m.RecordType = internText(interned, raw)
	case keyLayerType:
		m.LayerType = internText(interned, raw)
	case keyCachePolicy:
		m.Retain = jsonInt(raw, policyDefault) == policyRetain
	case keySize:
		m.Size = jsonInt(raw, sizeUnknown)
	case keyCommitted:
		r.committed = jsonBool(raw)
	case keyEqualMutable:
		r.equalMutable = jsonString(raw)
	case keySnapshot:
		if text, ok := plainText(raw); ok && string(text) == m.ID {
			m.SnapshotID = m.ID // one string instead of two
		} else {
			m.SnapshotID = jsonString(raw)
		}
	case keyParent:
		r.parent = jsonString(raw)
	case keyMergeParents:
		r.mergeParents = jsonStrings(raw)
	case keyLowerDiff:
		r.lower = jsonString(raw)
	case keyUpperDiff:
		r.upper = jsonString(raw)
	case keyImageRefs:
		m.ImageRefs = jsonStrings(raw)
	case keyDeleted:
		r.deleted = jsonBool(raw)
	case keyPinned:
		m.Pinned = jsonBool(raw)
	case keyUnsynced:
		r.unsynced = jsonString(raw)
	default:
		setBlob(blob, key, raw, interned)
	}
}

func setBlob(b *graph.Blob, key string, raw []byte, interned map[string]string) {
	switch key {
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
		b.MediaType = internText(interned, raw)
		b.Common = layertype.Common(b.MediaType)
	case keyURLs:
		b.URLs = jsonStrings(raw)
	}
}

// internText decodes a JSON string of which most records have the same, and keeps one copy.
func internText(seen map[string]string, raw []byte) string {
	if text, ok := plainText(raw); ok {
		if have, ok := seen[string(text)]; ok {
			return have
		}
	}
	s := jsonString(raw)
	if seen != nil && s != "" {
		seen[s] = s
	}
	return s
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

// kv is a value to store.
type kv struct {
	key   string
	value any
}

func setAll(w *metadata.RowWriter, values []kv) error {
	for _, v := range values {
		if err := w.Set(v.key, v.value, ""); err != nil {
			return err
		}
	}
	return nil
}

// parentValues names the parents in a row.
func parentValues(kind graph.Kind, parents []string) []kv {
	switch kind {
	case graph.Layer:
		return []kv{{keyParent, parents[0]}}
	case graph.Merge:
		return []kv{{keyMergeParents, parents}}
	case graph.Diff:
		var out []kv
		if parents[0] != "" {
			out = append(out, kv{keyLowerDiff, parents[0]})
		}
		if parents[1] != "" {
			out = append(out, kv{keyUpperDiff, parents[1]})
		}
		return out
	case graph.BaseLayer:
	}
	return nil
}

// writeNewRow stores a new record (spec 1.3), in the one transaction that META-1 asks for.
func writeNewRow(w *metadata.RowWriter, meta *graph.Meta, b *birth) error {
	values := []kv{{keyCreatedAt, meta.CreatedAt}, {keySnapshot, meta.SnapshotID}}
	values = append(values, parentValues(b.kind, b.parentIDs)...)
	o := b.opts
	if o.description != nil {
		values = append(values, kv{keyDescription, *o.description})
	}
	if o.recordType != nil {
		values = append(values, kv{keyRecordType, string(*o.recordType)})
	}
	if o.retain != nil {
		values = append(values, kv{keyCachePolicy, policyOf(*o.retain)})
	}
	if len(meta.ImageRefs) > 0 {
		values = append(values, kv{keyImageRefs, meta.ImageRefs})
	}
	if b.state != graph.Active {
		values = append(values, kv{keyCommitted, true})
	}
	if err := setAll(w, values); err != nil || meta.Blob == nil {
		return err
	}
	return writeBlob(w, meta.Blob)
}

// Indexes under which records are found by their chain IDs (spec 1.2).
const (
	indexChainID     = "chainid:"
	indexBlobChainID = "blobchainid:"
)

// writeBlob stores what is known of the blob of a record that is made of it.
func writeBlob(w *metadata.RowWriter, b *graph.Blob) error {
	if err := setAll(w, append(blobValues(b), kv{keyBlobOnly, b.Only})); err != nil {
		return err
	}
	return setChain(w, b.ChainID, b.BlobChainID)
}

// blobValues are what a row says of a blob itself.
func blobValues(b *graph.Blob) []kv {
	values := []kv{
		{keyDiffID, b.DiffID},
		{keyLayerIdentity, b.LayerIdentity},
		{keyBlob, b.Digest},
		{keyMediaType, b.MediaType},
		{keyBlobSize, b.Size},
	}
	if len(b.URLs) > 0 {
		values = append(values, kv{keyURLs, b.URLs})
	}
	return values
}

// setChain stores the chain IDs, by which the record can be found.
func setChain(w *metadata.RowWriter, chain, blobChain string) error {
	if err := w.Set(keyChainID, chain, indexChainID+chain); err != nil {
		return err
	}
	return w.Set(keyBlobChainID, blobChain, indexBlobChainID+blobChain)
}

// writeSealedRow stores the immutable half that Commit makes (spec 1.3). What it does not list stays
// behind with the mutable half.
func writeSealedRow(w *metadata.RowWriter, imm *graph.Meta, mutID string, parents []string, kind graph.Kind) error {
	values := []kv{
		{keyCreatedAt, imm.CreatedAt},
		{keyCommitted, true},
		{keySize, sizeUnknown},
		{keySnapshot, imm.SnapshotID},
		{keyEqualMutable, mutID},
	}
	if imm.Description != "" {
		values = append(values, kv{keyDescription, imm.Description})
	}
	return setAll(w, append(values, parentValues(kind, parents)...))
}

func policyOf(retain bool) int {
	if retain {
		return policyRetain
	}
	return policyDefault
}
