package cache

import (
	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// This file translates between rows and their typed form; readrow.go decodes them.

// row is a record as the database holds it.
type row struct {
	meta         *graph.Meta
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
