package cache_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
)

// This file holds the operations that make blobs of layers, and convert and deliver them.

// exported are the blobs of a record's layers, bottom first.
type exported []digest.Digest

// export is GetRemotes of a record of the scene, whose blobs are read if they are told to be. Every call has to give the same.
func (s *scene) export(ctx context.Context, name string, cfg remote.RefConfig, then func(*remote.Remote) error) error {
	remotes, err := s.lazy[name].GetRemotes(ctx, true, cfg, false, nil)
	if err != nil {
		return err
	}
	require.Len(s.t, remotes, 1)
	var got exported
	for _, desc := range remotes[0].Descriptors {
		require.Positive(s.t, desc.Size)
		got = append(got, desc.Digest)
	}
	if then != nil {
		if err := then(remotes[0]); err != nil {
			return err
		}
	}
	if want, before := s.exports[name]; before {
		require.Equal(s.t, want, got, "%s was exported before", name)
	}
	s.exports[name] = got
	return nil
}

// requireExports reads what was exported, and sees to it that nothing unfinished or unheard of is left.
func (s *scene) requireExports(t *testing.T, op operation) {
	t.Helper()
	for name, want := range s.exports {
		remotes, err := s.lazy[name].GetRemotes(ctx, false, op.as, false, nil)
		require.NoError(t, err)
		var got exported
		for _, desc := range remotes[0].Descriptors {
			got = append(got, desc.Digest)
			readBlob(t, remotes[0], desc)
		}
		require.Equal(t, want, got, name)
	}
}

// readAll reads all blobs of a remote, and verifies them.
func readAll(ctx context.Context, r *remote.Remote) error {
	for _, desc := range r.Descriptors {
		ra, err := r.Provider.ReaderAt(ctx, desc)
		if err != nil {
			return err
		}
		d, err := digest.FromReader(content.NewReader(ra))
		if cerr := ra.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		if d != desc.Digest {
			return errors.Errorf("read %s in place of %s", d, desc.Digest)
		}
	}
	return nil
}

// exporting is the operation that exports a record of a scene.
func exporting(name string, cfg remote.RefConfig, arrange func(*scene), states ...string) operation {
	return operation{
		arrange: arrange, as: cfg, exported: name, states: states,
		do: func(ctx context.Context, s *scene) error { return s.export(ctx, name, cfg, nil) },
	}
}

// atOnce says that parts of an operation run at the same time.
func atOnce(op operation) operation {
	op.concurrent = true
	return op
}

// packedChain is a chain of layers that have blobs, which are gzip.
func packedChain(s *scene) {
	inputsOfMerges(s)
	require.NoError(s.t, s.export(ctx, "above", as(codec.Gzip), nil))
	clear(s.exports)
}

// diffOfOne adds a diff that is one layer, whose blob it shares.
func diffOfOne(s *scene) {
	inputsOfMerges(s)
	diff, err := s.env.Manager.Diff(ctx, s.lazy["right"], s.lazy["above"], nil)
	require.NoError(s.t, err)
	s.keep("upper", diff)
}

func init() {
	for name, op := range exportOperations {
		op.blob, op.again = true, true
		operations[name] = op
	}
}

var exportOperations = map[string]operation{
	"export": atOnce(exporting("above", as(codec.Gzip), inputsOfMerges,
		"", "above ready packed", "right ready packed", "above ready packed, right ready packed",
		"above ready packed addressed, right ready packed addressed")),
	"export merge": atOnce(exporting("merge", as(codec.Gzip), recipes,
		"", "left ready packed", "right ready packed", "left ready packed, right ready packed",
		"left ready packed addressed, merge recipe addressed, right ready packed addressed")),
	"export diff": exporting("diff", as(codec.Zstd), recipes, "", "diff recipe packed", "diff recipe packed addressed"),
	"export diff of one layer": exporting("upper", as(codec.Uncompressed), diffOfOne,
		"", "above ready packed", "above ready packed, upper recipe addressed"),
	"export in another form":       atOnce(exporting("above", forced(codec.Zstd), packedChain, "")),
	"export lazy in another form":  exporting("gz", forced(codec.Zstd), lazyBase, ""),
	"export local in another form": exporting("gz", forced(codec.EStargz), localBase, ""),
	"read lazy": {
		arrange: lazyBase, as: as(codec.Gzip), exported: "gz", states: []string{""},
		do: func(ctx context.Context, s *scene) error {
			return s.export(ctx, "gz", as(codec.Gzip), func(r *remote.Remote) error { return readAll(ctx, r) })
		},
	},
	"unlazy": {
		arrange: lazyChain, as: as(codec.Gzip), exported: "ln", states: []string{""}, concurrent: true,
		do: func(ctx context.Context, s *scene) error {
			return s.export(ctx, "ln", as(codec.Gzip), func(r *remote.Remote) error {
				p, ok := r.Provider.(cache.Unlazier)
				require.True(s.t, ok)
				return p.Unlazy(ctx)
			})
		},
	},
}

// requireExport exports what a dead process did not get to the end with. What it made is used: the rows name the same blobs as before.
func requireExport(t *testing.T, env *testutil.Env, op operation, rep crashReport, rows map[string]map[string]string) {
	t.Helper()
	if op.exported == "" {
		return
	}
	require.NoError(t, env.GC(ctx))
	ref, err := env.Manager.Get(ctx, rep.Names[op.exported].Imm, nil, newSceneBlobs(t).through(env.Faults))
	require.NoError(t, err)
	r := export(t, ref, op.as)
	require.NoError(t, readAll(ctx, r))
	now := rowsOf(t, env)
	for id, row := range rows {
		if blob := row["cache.blob"]; blob != "" {
			require.Equal(t, blob, now[id]["cache.blob"])
		}
	}
	release(t, ref)
}

// madeByExport are the keys of a row that an export adds. They are part of the state.
var madeByExport = []string{
	"cache.blob", "cache.blobsize", "cache.mediatype", "cache.diffID", "cache.layerIdentity", "cache.chainID", "cache.blobChainID",
}

// exportState says what an export has added to a row.
func exportState(was, is map[string]string) (state string) {
	if was["cache.blob"] == "" && is["cache.blob"] != "" {
		state = " packed"
	}
	if was["cache.chainID"] == "" && is["cache.chainID"] != "" {
		state += " addressed"
	}
	return state
}
