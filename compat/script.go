// Package compat proves that BuildKit v0.34.1 and this library read and write the same
// metadata. cmd/golden writes databases with BuildKit's own code; the tests read them with the
// library, and have BuildKit read what the library wrote.
package compat

import (
	"encoding/json"
	"strings"
)

// Step is one change that both programs can be asked for.
type Step struct {
	// ID is the record to change.
	ID string
	// Key is the value to set or clear, External the external item to store instead. Without
	// either the record is removed.
	Key, External string
	// Value and Index are what is stored under Key; a nil Value with an empty Index clears it.
	Value any
	Index string
	// Data is what is stored under External.
	Data []byte
	// DropIndex is an index entry to remove although a value may name it.
	DropIndex string
}

// Target is a store under test.
type Target interface {
	// Apply makes the changes, all of one record, in one transaction where it can.
	Apply(id string, steps []Step) error
}

// Run applies a script. Neighbouring steps of one record go together.
func Run(t Target, script []Step) error {
	for len(script) > 0 {
		n := 1
		for n < len(script) && script[n].ID == script[0].ID {
			n++
		}
		if err := t.Apply(script[0].ID, script[:n]); err != nil {
			return err
		}
		script = script[n:]
	}
	return nil
}

const (
	digestA = "sha256:6c3c624b58dbbcd3c0dd82b4c53f04194d1247c6eebdaab7c610cf7d66709b3b"
	digestB = "sha256:9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0"
)

// Script covers the keys of the cache and of its embedders, and what may happen to an index.
func Script() []Step {
	const layer, child, mount, git, http = "0layer00000000000000000000", "1child00000000000000000000", "2mount", "3git", "4http"
	return []Step{
		{ID: layer, Key: "cache.createdAt", Value: int64(1_700_000_000_123_456_789)},
		{ID: layer, Key: "cache.description", Value: "pulled <from> \"a\" & b\u2028é"},
		{ID: layer, Key: "cache.recordType", Value: "regular"},
		{ID: layer, Key: "cache.cachePolicy", Value: 1},
		{ID: layer, Key: "snapshot.size", Value: int64(-1)},
		{ID: layer, Key: "snapshot.committed", Value: true},
		{ID: layer, Key: "cache.blobonly", Value: true},
		{ID: layer, Key: "cache.diffID", Value: digestA},
		{ID: layer, Key: "cache.chainID", Value: digestA, Index: "chainid:" + digestA},
		{ID: layer, Key: "cache.blobChainID", Value: digestB, Index: "blobchainid:" + digestB},
		{ID: layer, Key: "cache.layer.urls", Value: []string{"https://z.example/l", "https://a.example/l"}},
		{ID: layer, Key: "cache.imageRefs", Value: []string{}},
		{ID: layer, External: "filelist", Data: []byte(`["a","b/","b/c"]`)},
		{ID: layer, External: "buildkit.contenthash.v0", Data: []byte{0, 1, 2, 0xff, 0xfe}},
		{ID: layer, External: "large", Data: []byte(strings.Repeat("0123456789abcdef", 1000))},
		{ID: child, Key: "cache.parent", Value: layer},
		{ID: child, Key: "cache.mergeParents", Value: []string{layer, layer}},
		{ID: child, Key: "cache.equalMutable", Value: mount},
		{ID: child, Key: "cache.equalMutable"},
		{ID: child, Key: "cache.deleted", Value: true},
		{ID: child, External: "filelist", Data: []byte("null")},
		{ID: mount, Key: "cache-dir", Value: "cache-dir:/root/.cache:id", Index: "cache-dir:/root/.cache:id"},
		{ID: mount, Key: "local.sharedKey", Value: "ctx:a", Index: "local.sharedKey:ctx:a"},
		{ID: mount, Key: "cache.lastUsedAt", Value: int64(1_700_000_001_000_000_000)},
		{ID: mount, Key: "cache.usageCount", Value: 7},
		{ID: git, Key: "git-remote", Value: "https://example.com/r.git", Index: "git-remote::https://example.com/r.git"},
		{ID: git, Key: "git-snapshot", Value: "k", Index: "git-snapshot::https://example.com/r.git#main:dir::"},
		{ID: git, Key: "raw", Value: json.RawMessage(`{"a":[1,{"b":null}],"c":"\u003c"}`)},
		{ID: http, Key: "http.checksum", Value: digestB, Index: digestA},
		{ID: http, Key: "etag", Value: `W/"x"`},
		{ID: http, Key: "http.modtime", Value: "Mon, 02 Jan 2006 15:04:05 GMT"},

		// Indexes that move, are shared, and are dropped though a value names them.
		{ID: http, Key: "http.checksum", Value: digestA, Index: digestB},
		{ID: mount, Key: "other", Value: "x", Index: "local.sharedKey:ctx:a"},
		{ID: mount, Key: "local.sharedKey"},
		{ID: git, DropIndex: "git-remote::https://example.com/r.git"},
		{ID: git, Key: "again", Value: 1, Index: "x::y"},
		{ID: git, Key: "again", Value: 2, Index: "x"},
		{ID: git, Key: "only", Index: "z"},

		// Records that come and go, and one that comes back.
		{ID: "5gone", Key: "k", Value: "v", Index: "gone"},
		{ID: "5gone", External: "filelist", Data: []byte("null")},
		{ID: "5gone"},
		{ID: "6back", Key: "k", Value: "v", Index: "back"},
		{ID: "6back", External: "filelist", Data: []byte("old")},
		{ID: "6back"},
		{ID: "6back", Key: "k", Value: "w", Index: "back"},
	}
}

// Prefixes are the searches that both programs must answer alike.
func Prefixes() []string {
	return []string{"", "chainid:", "blobchainid:", "cache-dir:", "git-remote::", "git-snapshot::", "sha256:", "x", "x::", "gone", "local."}
}
